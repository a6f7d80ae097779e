"""A whole Langevin chain of an MLP energy in one GPU launch, written in Triton (`core.triton_kernel`).

A step of a chain is a few small matrix products; run one by one they cost mostly launches. Here each program
walks a block of chains from start to end, with the input gradient written out and the noise drawn from
Philox, a counter-based generator (Salmon et al., SC 2011), by (seed, row, column, step): the result depends
on neither the block size nor the number of programs.

What lies where, on an H200 (132 multiprocessors, each with 228 KB of shared memory, of which a program may
take 227, and 64k registers of 4 bytes); registers and shared memory as the compiler reports them for sm_90:
- states, activations, and the slopes of all layers for the way back: registers. A tile of 16 x 128 is 8 of a
  thread's 255 at 8 warps. 16 chains are a program, as larger blocks spill.
- weights: shared memory, in one copy for each direction, as far as they fit. With x of 31, 3 x 128 stays in
  bfloat16 (152 KB); in TF32 its second hidden weight does not (196 KB with the first); neither spills.
- other weights are read at each step from L1 or L2, which all programs share, in slices of 128 bytes through
  three buffers; the activations then pass through a scratch of 8 to 32 KB a program. Width 512 reads 2 MB a
  hidden layer and step in TF32, and spills: one launch still saves the launches, yet L2 becomes the limit.
- up to 132 x 16 chains each program has a multiprocessor of its own, so that the batch should hardly matter.

Precision: products accumulate in float32; "tf32" and "bf16" round their inputs, "ieee" does not and runs
without tensor cores, to check the others against. A Metropolis-corrected chain is exact for the energy as
rounded: its gradient needs no precision, only its energy.
"""

import contextlib
import dataclasses
import importlib.util
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.gradients import MLPForm
from ebm_traj.core.langevin import Chain, LangevinConfig
from ebm_traj.errors import InputError

Precision = Literal["tf32", "ieee", "bf16"]

MAX_WIDTH, MAX_COLUMNS, MAX_HIDDEN = 512, 128, 3
LEAST_BLOCK = 16
"""Chains of a program; the least that tensor cores take."""
SHARED_BYTES = 227 * 1024
"""Shared memory that a program may take, H100 and H200; the launch asks for less where a device has less."""


def supports(form: MLPForm, config: LangevinConfig) -> str | None:
    """Why this chain cannot run in one launch here; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if config.adapt:
        return "it cannot adapt the step size"
    n, width = form.x_weight.shape
    if n > MAX_COLUMNS:
        return f"x has {n} elements; accepted are up to {MAX_COLUMNS}"
    if width > MAX_WIDTH:
        return f"the network is {width} wide; accepted is up to {MAX_WIDTH}"
    if len(form.hidden) > MAX_HIDDEN:
        return f"the network has {1 + len(form.hidden)} hidden layers; accepted are up to {1 + MAX_HIDDEN}"
    if form.x_weight.dtype != torch.float32:
        return f"the network is of {form.x_weight.dtype}; accepted is torch.float32"
    if not form.x_weight.is_cuda and not _interpreted():
        return f"it is on device '{form.x_weight.device}'; accepted is cuda"
    return None


def triton_langevin(
    form: MLPForm,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None,
    seed: int | Tensor,
    precision: Precision = "tf32",
    block: int | None = None,
) -> Chain:
    """`core.langevin.langevin` from `start` (B, n) on the energy of `form`, in one launch.

    `scale` broadcasts to (B, n). The noise is a function of `seed`, an integer or a 0-d int64 tensor on the
    device of `start`. `block` sets the number of chains per program, a power of two from 16 (the default on a
    GPU); it changes the speed alone. Nothing waits for the device.
    Raises InputError where `supports` gives a reason, and on shapes, types or options that do not fit.
    """
    why = supports(form, config)
    if why is not None:
        raise InputError(f"chain in one launch: {why}")
    if precision not in get_args(Precision):
        raise InputError(f"chain precision '{precision}'; accepted are {', '.join(get_args(Precision))}")
    if block is not None and (block < LEAST_BLOCK or block & (block - 1)):
        raise InputError(f"chain block: {block}; accepted are powers of two from {LEAST_BLOCK}")
    n, width = form.x_weight.shape
    if start.dim() != 2 or start.shape[1] != n or start.dtype != torch.float32:
        raise InputError(f"chain start: {tuple(start.shape)} of {start.dtype}; expected (B, {n}) of float32")
    if start.device != form.x_weight.device:
        raise InputError(f"chain start on '{start.device}', network on '{form.x_weight.device}'")
    batch = len(start)
    if batch * n >= 2**31 or batch * width >= 2**31:
        raise InputError(f"chain start: {batch} rows; their elements must be fewer than 2^31")
    if batch == 0 or config.steps == 0:
        return Chain(x=start.detach().clone(), acceptance=torch.ones(()), gradients=config.gradients)
    with torch.no_grad():
        return _launch(form, start.detach(), config, scale, seed, precision, block)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a chain is laid out on the device; padded sizes are powers of two."""

    block: int
    """Chains of a program."""
    width: int
    """Of the layers, padded."""
    columns: int
    """n, padded."""
    warps: int
    kept: int
    """Hidden weights that stay in shared memory."""
    keep_x: bool
    """The same for the first layer's weight."""
    keep_first: bool
    """Whether the condition's part of the first layer stays in registers."""
    slice: int
    """Rows of a weight that are read at a time, where it does not stay."""
    stages: int
    """How many slices are on their way."""


def plan(n: int, width: int, hidden: int, precision: Precision, block: int) -> Plan:
    """Keep as much on chip as fits: first the first layer's weight, then the hidden ones."""
    width, columns = _padded(width), _padded(n)
    size = 2 if precision == "bf16" else 4
    # twice, as each product of a layer wants its weight in its own order
    layer, x_layer = 2 * width * width * size, 2 * columns * width * size
    slice_, stages = min(128 // size, width), 3
    # layout changes of activations between products, and the pipeline of what does not stay
    passing = block * width * 4
    pipeline = stages * (slice_ * width * size + block * slice_ * size)
    left = SHARED_BYTES - passing - pipeline
    # a product that is not cut into slices has all of its activations in each warp's registers
    fits = width * size <= 512
    keep_x = fits and x_layer <= left
    left -= x_layer if keep_x else 0
    if fits and keep_x and hidden * layer <= left + pipeline:
        kept = hidden
    else:
        kept = min(hidden, left // layer) if fits else 0
    warps = 4 if block * width * size <= 4096 else 16 if block * width > 8192 else 8
    keep_first = block * width <= 16 * 32 * warps
    return Plan(block, width, columns, warps, kept, keep_x, keep_first, slice_, stages)


_fitting: dict[tuple[int, Plan, bool, Precision], Plan] = {}
"""The plan that a device had room for, by the plan first tried."""


def _launch(
    form: MLPForm,
    start: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    seed: int | Tensor,
    precision: Precision,
    block: int | None,
) -> Chain:
    from ebm_traj.core.triton_kernel import chain_kernel

    (batch, n), width, device = start.shape, form.x_weight.shape[1], start.device
    emulated = precision == "bf16" and _interpreted()
    x_weight = _weight(form.x_weight, precision, emulated)
    if form.hidden:
        hidden = _weight(torch.stack([weight for weight, _ in form.hidden]), precision, emulated)
        bias = torch.stack([bias for _, bias in form.hidden])
    else:
        hidden = bias = x_weight
    back = [x_weight.mT.contiguous(), hidden.mT.contiguous()]
    end = start.new_empty(batch, n)
    energy = start.new_empty(batch if config.metropolis else 1)
    accepted = torch.empty_like(energy)
    # from device memory, so that neither a new seed nor one drawn on the device costs a compilation or a wait
    if isinstance(seed, Tensor):
        place = seed.to(device=device, dtype=torch.int64)
    else:
        place = torch.full((), seed & (2**63 - 1), dtype=torch.int64, device=device)
    block = block or _block(batch, device)
    tried = plan(n, width, len(form.hidden), precision, block)
    scratch = x_weight.new_empty(math.ceil(batch / block) * block * max(tried.width, tried.columns))
    first, first_strides = _spread(form.first, batch, width)
    centre, centre_strides = _spread(form.centre, batch, n, start)
    diagonal, diagonal_strides = _spread(form.precision, batch, n, start)
    scale_, scale_strides = _spread(scale, batch, n, start)
    arguments: list[Any] = [
        *(start, end, energy, accepted, first, x_weight, back[0], hidden, back[1], bias),
        *(form.last.contiguous(), form.last_bias, centre, diagonal, scale_, scratch, place),
        *(*start.stride(), *first_strides, *centre_strides, *diagonal_strides, *scale_strides),
        *(batch, config.steps, 0),
        *(config.step_size, config.noise_scale, config.clip or 0.0, config.temperature),
    ]
    flags = {
        "METROPOLIS": config.metropolis,
        "NOISY": config.noise_scale > 0,
        "CLIPPED": config.clip is not None,
        "CENTRED": form.centre is not None,
        "QUADRATIC": form.precision is not None,
        "SCALED": scale is not None,
        "DOT": "ieee" if precision == "ieee" else "tf32",
        "HALF": precision == "bf16",
        "EMULATED": emulated,
        "LAYERS": len(form.hidden),
        "N": n,
        "UNITS": width,
    }
    key = (device.index or 0, tried, config.metropolis, precision)
    fitting = _fitting.get(key, tried)
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        while True:
            layout = fitting
            constants = {
                "KEPT": layout.kept,
                "KEEP_X": layout.keep_x,
                "KEEP_FIRST": layout.keep_first,
                "WIDTH": layout.width,
                "SLICE": layout.slice,
                "STAGES": layout.stages,
                "COLUMNS": layout.columns,
                "BLOCK": layout.block,
            }
            options = {"num_warps": layout.warps, "num_stages": 1, "enable_fp_fusion": True}
            try:
                chain_kernel[(math.ceil(batch / layout.block),)](*arguments, **flags, **constants, **options)
                break
            except _out_of_resources():
                fitting = _smaller(layout)
    _fitting[key] = fitting
    return Chain(
        x=end,
        acceptance=accepted.mean() / config.steps if config.metropolis else torch.ones(()),
        gradients=config.gradients,
        energy=energy if config.metropolis else None,
    )


def _weight(weight: Tensor, precision: Precision, emulated: bool) -> Tensor:
    """As the kernel reads it: row-major, rounded if the products are."""
    if precision == "bf16":
        weight = weight.to(torch.bfloat16)
    return (weight.float() if emulated else weight).contiguous()


def _smaller(layout: Plan) -> Plan:
    """The next plan to try on a device that has less shared memory."""
    if layout.kept:
        return dataclasses.replace(layout, kept=layout.kept - 1)
    if layout.keep_x:
        return dataclasses.replace(layout, keep_x=False)
    if layout.stages > 1:
        return dataclasses.replace(layout, stages=layout.stages - 1)
    raise InputError("chain in one launch: this device has too little shared memory; use another backend")


def _out_of_resources() -> type[Exception]:
    from triton.runtime.errors import OutOfResources

    return OutOfResources


def _spread(
    values: Tensor | None, batch: int, columns: int, stand_in: Tensor | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """A tensor that broadcasts to (batch, columns), and its strides; nothing is copied."""
    if values is None:
        assert stand_in is not None
        return stand_in, (0, 0)
    try:
        wide = values.detach().expand(batch, columns)
    except RuntimeError:
        raise InputError(
            f"chain operand of shape {tuple(values.shape)}; it must broadcast to ({batch}, {columns})"
        ) from None
    return wide, (wide.stride(0), wide.stride(1))


def _block(batch: int, device: torch.device) -> int:
    """The least that tensor cores take; in the interpreter, which walks programs in turn, all at once."""
    return LEAST_BLOCK if device.type == "cuda" else min(1024, _padded(batch))


def _padded(number: int) -> int:
    """The least power of two that is no less, and that tensor cores take."""
    return max(16, 1 << (number - 1).bit_length())


def _interpreted() -> bool:
    """Whether the kernel runs in Triton's interpreter (TRITON_INTERPRET=1 when it was imported)."""
    from triton.runtime.interpreter import InterpretedFunction

    from ebm_traj.core.triton_kernel import chain_kernel

    return isinstance(chain_kernel, InterpretedFunction)
