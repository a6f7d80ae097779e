"""The one-launch chain against the reference and against distributions known in closed form.

Without a GPU the kernel runs in Triton's interpreter: its arithmetic is checked, not its compiled form. On a
machine with one, this file checks the compiled kernel, on wider networks too.
"""

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ebm_traj.core.gradients import MLPForm
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.triton_chain import plan, supports, triton_langevin
from ebm_traj.errors import InputError

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
if not GPU:
    if "triton" in sys.modules and "ebm_traj.core.triton_kernel" not in sys.modules:
        pytest.skip("Triton was imported before, without its interpreter", allow_module_level=True)
    # set while the kernel is defined and while it runs, not for the other tests of this process
    os.environ["TRITON_INTERPRET"] = "1"
    import ebm_traj.core.triton_kernel  # noqa: F401

    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    if not GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


SHAPES = [  # batch, n, width, hidden layers after the first
    (5, 3, 64, 1),
    (37, 31, 128, 2),
    (16, 17, 100, 3),
    (33, 70, 256, 1),
    (1, 1, 20, 0),
]
WIDE = [(512, 31, 128, 2), (2500, 31, 128, 2), (100, 128, 512, 3), (9000, 62, 128, 3)] if GPU else []


def make_form(batch, n, width, hidden, quadratic=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    return MLPForm(
        first=draw(batch, width),
        x_weight=draw(n, width) / n**0.5,
        # transposed views, as Linear layers give them
        hidden=tuple((1.5 * draw(width, width).t() / width**0.5, 0.1 * draw(width)) for _ in range(hidden)),
        last=draw(width) / width**0.5,
        last_bias=draw(),
        centre=draw(batch, n) if quadratic else None,
        precision=draw(batch, n).exp() if quadratic else None,
    )


def gaussian(batch, n, std=1.0, centre=0.0):
    """E = |x - centre|^2 / 2 std^2: a network that adds nothing."""
    form = make_form(batch, n, 16, 0)
    return dataclasses.replace(
        form,
        last=torch.zeros_like(form.last),
        last_bias=torch.zeros_like(form.last_bias),
        centre=torch.full((1, n), centre, device=DEVICE),
        precision=torch.full((1, n), std**-2, device=DEVICE),
    )


def energy_of(form):
    def energy(x):
        h = torch.nn.functional.silu(form.first + x @ form.x_weight)
        for weight, bias in form.hidden:
            h = torch.nn.functional.silu(h @ weight + bias)
        value = h @ form.last + form.last_bias
        if form.precision is None:
            return value
        offset = x if form.centre is None else x - form.centre
        return value + 0.5 * (form.precision * offset**2).sum(1)

    return energy


def in_float64(form):
    def cast(value):
        return None if value is None else value.double()

    return MLPForm(
        **{
            field.name: tuple((w.double(), b.double()) for w, b in form.hidden)
            if field.name == "hidden"
            else cast(getattr(form, field.name))
            for field in dataclasses.fields(form)
        }
    )


def starts(batch, n, seed=1):
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def philox(seed, *words):
    """Philox 4x32-10 (Salmon et al. 2011) of four counter words: arrays of 32-bit words."""
    c = [np.asarray(word, dtype=np.uint64) for word in np.broadcast_arrays(*words)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]),
            b & low,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]),
            a & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def unit(bits):
    """A 32-bit word as a number in [0, 1)."""
    signed = bits.astype(np.uint32).view(np.int32).astype(np.int64)
    return np.where(signed < 0, ~signed, signed) * 4.6566127342e-10


def noise(seed, step, batch, n):
    u, v, _, _ = philox(seed, np.arange(batch)[:, None], np.arange(n)[None, :], step, 0)
    return np.sqrt(-2 * np.log(np.maximum(unit(u), 1e-7))) * np.cos(2 * math.pi * unit(v))


@pytest.mark.parametrize("shape", SHAPES + WIDE)
@pytest.mark.parametrize(
    "precision, tolerance", [("ieee", 2e-5), ("tf32", 2e-2 if GPU else 2e-5), ("bf16", 5e-2)]
)
def test_noiseless_chain_is_the_reference(shape, precision, tolerance):
    batch, n, _, _ = shape
    form, start = make_form(*shape), starts(batch, n)
    scale = torch.rand(n, generator=torch.Generator().manual_seed(2)).to(DEVICE) + 0.5
    config = LangevinConfig(steps=4, step_size=0.05, noise=0.0)
    for settings, around in [(config, None), (dataclasses.replace(config, clip=0.3), scale)]:
        chain = triton_langevin(form, start, settings, scale=around, seed=0, precision=precision)
        expected = langevin(energy_of(form), start, settings, scale=around)
        moved = float((expected.x - start).abs().max())
        assert float((chain.x - expected.x).abs().max()) < tolerance * moved
        assert chain.energy is None and chain.gradients == 4 and float(chain.acceptance) == 1


@pytest.mark.parametrize("quadratic", [False, True])
def test_clipped_noisy_chain_is_the_rule_with_its_documented_noise(quadratic):
    batch, n, seed = 9, 5, 2**40 + 3
    form, start = make_form(batch, n, 32, 1, quadratic), starts(batch, n)
    scale = torch.linspace(0.5, 2, batch, device=DEVICE)[:, None]
    config = LangevinConfig(steps=5, step_size=0.1, noise=0.05, clip=0.4)
    chain = triton_langevin(form, start, config, scale=scale, seed=seed, precision="ieee")
    energy, x, s = energy_of(in_float64(form)), start.double(), scale.double()
    for step in range(config.steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        drawn = torch.from_numpy(noise(seed, step, batch, n)).to(DEVICE)
        x = x - 0.1 * s**2 * gradient.clamp(-0.4, 0.4) + 0.05 * s * drawn
    torch.testing.assert_close(chain.x.double(), x.detach(), atol=1e-5, rtol=1e-5)


def test_corrected_chain_is_mala_with_its_documented_noise():
    batch, n, seed, temperature, eta = 40, 6, 11, 1.7, 0.35
    form, start = make_form(batch, n, 32, 2), starts(batch, n)
    scale = torch.linspace(0.6, 1.2, n, device=DEVICE)
    config = LangevinConfig(steps=6, step_size=eta, metropolis=True, temperature=temperature)
    chain = triton_langevin(form, start, config, scale=scale, seed=seed, precision="ieee")

    energy, s = energy_of(in_float64(form)), scale.double()

    def evaluate(x):
        x = x.detach().requires_grad_()
        value = energy(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    def log_density(to, drift_from, gradient):
        mean = drift_from - eta * s**2 * gradient
        return -(((to - mean) / s) ** 2).sum(1) / (4 * eta * temperature)

    x = start.double()
    value, gradient = evaluate(x)
    accepted = 0
    for step in range(config.steps):
        drawn = torch.from_numpy(noise(seed, step, batch, n)).to(DEVICE)
        proposal = x - eta * s**2 * gradient + math.sqrt(2 * eta * temperature) * s * drawn
        new_value, new_gradient = evaluate(proposal)
        ratio = (value - new_value) / temperature
        ratio += log_density(x, proposal, new_gradient) - log_density(proposal, x, gradient)
        u = torch.from_numpy(unit(philox(seed, np.arange(batch), 0, step + 1, 1)[0])).to(DEVICE)
        accept = u.log() < ratio
        accepted += int(accept.sum())
        x = torch.where(accept[:, None], proposal, x)
        gradient = torch.where(accept[:, None], new_gradient, gradient)
        value = torch.where(accept, new_value, value)
    assert 0.2 < accepted / (batch * config.steps) < 0.95
    torch.testing.assert_close(chain.x.double(), x, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(chain.energy.double(), value, atol=1e-4, rtol=1e-5)
    assert float(chain.acceptance) == pytest.approx(accepted / (batch * config.steps), abs=1e-6)
    assert chain.gradients == 7


CHAINS, DIMENSIONS = 20_000 if GPU else 400, 16  # the interpreter is slow


def test_unadjusted_chain_has_the_stationary_variance_of_its_step_size():
    # x' = (1 - h / s^2) x + sqrt(2 h) n has variance s^2 / (1 - h / (2 s^2)), not s^2
    std, h = 0.7, 0.2
    chain = triton_langevin(
        gaussian(CHAINS, DIMENSIONS, std, centre=1.0),
        torch.zeros(CHAINS, DIMENSIONS, device=DEVICE),
        LangevinConfig(steps=20, step_size=h),
        scale=None,
        seed=5,
    )
    expected = std**2 / (1 - h / (2 * std**2))
    count = chain.x.numel()
    assert abs(float(chain.x.mean()) - 1.0) < 5 * math.sqrt(expected / count)
    assert float(chain.x.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / count))
    # neither elements nor chains share their noise; 16 values of two chains correlate by .7 at most by chance
    assert float(torch.corrcoef(chain.x.T).fill_diagonal_(0).abs().max()) < 6 / math.sqrt(CHAINS)
    assert float(torch.corrcoef(chain.x[:DIMENSIONS]).fill_diagonal_(0).abs().max()) < 0.97


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_metropolis_correction_is_exact(temperature):
    std, h = 0.7, 0.2
    chain = triton_langevin(
        gaussian(CHAINS, DIMENSIONS, std, centre=1.0),
        torch.zeros(CHAINS, DIMENSIONS, device=DEVICE),
        LangevinConfig(steps=40, step_size=h, metropolis=True, temperature=temperature),
        scale=None,
        seed=6,
    )
    count, variance = chain.x.numel(), temperature * std**2
    assert abs(float(chain.x.mean()) - 1.0) < 5 * math.sqrt(variance / count)
    assert float(chain.x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / count))


def test_acceptance_is_that_of_the_reference():
    form, start = make_form(300, 16, 32, 1), starts(300, 16)
    config = LangevinConfig(steps=15, step_size=0.1, metropolis=True)
    mine = float(triton_langevin(form, start, config, scale=None, seed=7).acceptance)
    reference = float(langevin(energy_of(form), start, config).acceptance)
    assert 0.1 < reference < 0.95
    assert mine == pytest.approx(reference, abs=0.04)


@pytest.mark.parametrize("metropolis", [False, True])
def test_result_depends_on_the_seed_and_not_on_blocks_or_other_rows(metropolis):
    form, start = make_form(35, 5, 32, 1), starts(35, 5)
    config = LangevinConfig(steps=3, step_size=0.1, metropolis=metropolis)

    def walk(seed, form=form, start=start, **kwargs):
        return triton_langevin(form, start, config, scale=None, seed=seed, precision="ieee", **kwargs).x

    first = walk(3)
    assert torch.equal(first, walk(3))
    assert torch.equal(first, walk(torch.tensor(3, device=DEVICE)))
    assert not torch.equal(first, walk(4))
    for block in (16, 32, 64):
        torch.testing.assert_close(walk(3, block=block), first, atol=1e-6, rtol=1e-6)
    part = dataclasses.replace(
        form, first=form.first[:9], centre=form.centre[:9], precision=form.precision[:9]
    )
    torch.testing.assert_close(walk(3, part, start[:9]), first[:9], atol=1e-6, rtol=1e-6)


def test_start_is_left_alone_and_strides_do_not_matter():
    form, start = make_form(6, 4, 16, 1), starts(4, 6).t()
    config = LangevinConfig(steps=3, step_size=0.1)
    before = start.clone()
    one_row = dataclasses.replace(form, first=form.first[:1], centre=form.centre[:1], precision=None)
    spread = dataclasses.replace(one_row, first=form.first[:1].repeat(6, 1))
    chains = [
        triton_langevin(f, s, config, scale=None, seed=0).x
        for f, s in [(one_row, start), (spread, start.contiguous())]
    ]
    assert torch.equal(*chains) and torch.equal(start, before) and chains[0].shape == (6, 4)


def test_diverging_chain_shows():
    form = gaussian(4, 2)
    start = torch.full((4, 2), math.nan, device=DEVICE)
    chain = triton_langevin(form, start, LangevinConfig(steps=2, noise=0.0, clip=1.0), scale=None, seed=0)
    assert chain.x.isnan().all()


def test_no_steps_and_no_chains():
    form, start = make_form(3, 2, 16, 0), starts(3, 2)
    assert torch.equal(triton_langevin(form, start, LangevinConfig(steps=0), scale=None, seed=0).x, start)
    none = dataclasses.replace(
        form, first=form.first[:0], centre=form.centre[:0], precision=form.precision[:0]
    )
    assert triton_langevin(none, start[:0], LangevinConfig(steps=2), scale=None, seed=0).x.shape == (0, 2)


@pytest.mark.parametrize(
    "form, config, reason",
    [
        (make_form(1, 129, 16, 0), LangevinConfig(), "129 elements"),
        (make_form(1, 2, 513, 0), LangevinConfig(), "513 wide"),
        (make_form(1, 2, 16, 4), LangevinConfig(), "5 hidden layers"),
        (in_float64(make_form(1, 2, 16, 0)), LangevinConfig(), "float64"),
        (make_form(1, 2, 16, 0), LangevinConfig(metropolis=True, adapt=5), "adapt"),
    ],
)
def test_what_it_cannot_do_has_a_reason(form, config, reason):
    assert reason in supports(form, config)
    with pytest.raises(InputError, match=reason):
        triton_langevin(form, torch.zeros(1, form.x_weight.shape[0]), config, scale=None, seed=0)


def test_bad_arguments_are_named():
    form, config = make_form(3, 2, 16, 0), LangevinConfig()
    assert supports(form, config) is None
    for start, kwargs, message in [
        (starts(3, 4), {}, r"\(3, 4\)"),
        (starts(3, 2).double(), {}, "float64"),
        (starts(3, 2), {"precision": "fp8"}, "fp8"),
        (starts(3, 2), {"block": 24}, "24"),
        (starts(3, 2), {"scale": torch.ones(5, device=DEVICE)}, r"\(5,\)"),
    ]:
        with pytest.raises(InputError, match=message):
            triton_langevin(form, start, config, **({"scale": None, "seed": 0} | kwargs))


@pytest.mark.parametrize("precision, kept", [("bf16", 2), ("tf32", 1), ("ieee", 1)])
def test_plan_of_the_benchmark_keeps_what_fits_on_chip(precision, kept):
    layout = plan(31, 128, 2, precision, 16)
    assert (layout.kept, layout.keep_x, layout.columns) == (kept, True, 32)


COMPILE = """
import dataclasses
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ebm_traj.core.triton_chain import SHARED_BYTES, plan
from ebm_traj.core.triton_kernel import chain_kernel

def build(precision, kept, metropolis, n=20, width=32, hidden=2):
    layout = dataclasses.replace(plan(n, width, hidden, precision, 16), kept=kept, keep_x=kept > 0)
    half = precision == "bf16"
    constants = dict(
        LAYERS=hidden, KEPT=layout.kept, KEEP_X=layout.keep_x, KEEP_FIRST=layout.keep_first, N=n, UNITS=width,
        WIDTH=layout.width, COLUMNS=layout.columns, BLOCK=16, SLICE=layout.slice, STAGES=layout.stages,
        METROPOLIS=metropolis, NOISY=True, CLIPPED=not metropolis, CENTRED=True, QUADRATIC=True, SCALED=True,
        DOT="tf32", HALF=half, EMULATED=False,
    )
    types = {"seed_ptr": "*i64", **dict.fromkeys(("step_size", "noise_scale", "clip", "temperature"), "fp32")}
    if half:
        weights = ("x_weight_ptr", "x_back_ptr", "hidden_ptr", "hidden_back_ptr", "scratch_ptr")
        types.update(dict.fromkeys(weights, "*bf16"))
    signature = {
        name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32") for name in chain_kernel.arg_names
    }
    signature.update(dict.fromkeys(constants, "constexpr"))
    source = ASTSource(chain_kernel, signature, constexprs=constants)
    options = {"num_warps": layout.warps, "num_stages": 1}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "mma" in built.asm["ptx"]
    assert built.metadata.shared <= SHARED_BYTES, built.metadata.shared

build("tf32", 1, True)  # one weight on chip, one not
build("bf16", 0, False, hidden=1)
"""


def test_kernel_compiles_for_hopper():
    # the interpreter takes more than the compiler; that one needs no GPU, but another process
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
