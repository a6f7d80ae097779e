"""Speed of Langevin chains on a small network: ours, plain PyTorch and the nearest libraries on equal work.

Every row walks the same number of chains for the same number of steps of x' = x - h dE/dx + sqrt(2 h) n from
the same start on the same weights: one gradient and one draw of noise a step, nothing recorded. The column
"differs" is the largest difference of any coordinate from the plain loop's end when the noise is left out.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm_traj.benchmarks.floor import (
    BF16,
    FP32,
    Floor,
    Product,
    bare_products,
    chain_products,
    make_floor,
)
from ebm_traj.benchmarks.paired import (
    Absent,
    Builder,
    Contender,
    Row,
    gather,
    markdown,
    measure,
    require_positive,
    rows_of,
)
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.window_energy import WindowEnergy

Chain = Callable[[Tensor, bool], Tensor]
"""Walks from a start (B, n), with noise or without, to the end (B, n)."""

OURS, PLAIN, COMPILED = "ebm_traj", "plain autograd loop", "torch.compile of the gradient"
GRAPHED = "CUDA-graph replay of the plain loop"
TORCHEBM, EBMKIT = "torchebm", "ebmkit"
GPU_BACKENDS = ("manual", "graph", "triton")
WARMING = 3  # calls before a CUDA graph is captured, as torch asks for
NO_NOISE = 1e-20  # torchebm refuses 0


@dataclasses.dataclass(frozen=True)
class ChainSettings:
    """The chain that is timed."""

    batch: int = 512
    """Chains walked together."""
    size: int = 31
    """Numbers in x."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    steps: int = 60
    """Steps of the unadjusted chain."""
    step_size: float = 0.01
    """Factor of the gradient."""

    def __post_init__(self) -> None:
        for name in ("batch", "size", "width", "depth", "steps"):
            require_positive(name, getattr(self, name))
        if not self.step_size > 0:
            raise InputError(f"--step-size {self.step_size}: it must be above 0")

    @property
    def sizes(self) -> list[int]:
        """Numbers in x and in each hidden layer."""
        return [self.size, *[self.width] * self.depth]

    @property
    def products(self) -> list[Product]:
        """Those of one gradient."""
        return chain_products(self.batch, self.sizes)

    @property
    def kept(self) -> int:
        """Numbers that a chain must read or write: start, end, weights."""
        return 2 * self.batch * self.size + weight_count(self.sizes)


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """What was found."""

    settings: ChainSettings
    rows: list[Row]
    absent: list[Absent]
    floor: Floor

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        layers = "-".join(map(str, [*s.sizes, 1]))
        title = f"chain of {s.steps} steps, batch {s.batch}, energy {layers}"
        return markdown(self.rows, self.absent, title=title) + "\n\n" + self.floor.text(self.rows)


def benchmark_chain(
    settings: ChainSettings,
    *,
    rounds: int = 20,
    device: torch.device | str = "cpu",
    block_seconds: float = 0.1,
    seed: int = 0,
) -> ChainResult:
    """All rows and the floor; see the module."""
    require_positive("rounds", rounds)
    builders = chain_builders(settings, device, seed)
    contenders, absent = gather([*builders.values(), *floor_builders(settings, device)])
    times = measure(contenders, rounds=rounds, block_seconds=block_seconds, device=device, seed=seed)
    floor = make_floor(settings.products * settings.steps, settings.kept, device)
    return ChainResult(settings, rows_of(times, contenders), absent, floor)


def chain_builders(settings: ChainSettings, device: torch.device | str, seed: int) -> dict[str, Builder]:
    """A builder for each chain by its name, ours first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        energy = make_energy(settings.size, settings.width, settings.depth).to(device).requires_grad_(False)
        start = torch.randn(settings.batch, settings.size).to(device)
    net = plain_network(energy)
    expected = plain_chain(net, settings)(start, False)

    def builder(name: str, make: Callable[[], Chain], optional: bool = True) -> Builder:
        def build() -> Contender:
            chain = make()
            difference = float((chain(start, False) - expected).abs().max())
            return Contender(name, lambda: chain(start, True), {"differs": difference})

        return Builder(name, build, optional)

    on_gpu = torch.device(device).type == "cuda"
    backends = ("autograd", *(GPU_BACKENDS if on_gpu else ()))
    made: dict[str, tuple[Callable[[], Chain], bool]] = {
        OURS: (lambda: our_chain(energy, settings), False),
        **{f"{OURS}, {name}": (_forced(energy, settings, name), True) for name in backends},
        PLAIN: (lambda: plain_chain(net, settings), False),
        COMPILED: (lambda: compiled_chain(net, settings, device), True),
        **({GRAPHED: (lambda: graphed_chain(net, settings, start), True)} if on_gpu else {}),
        TORCHEBM: (lambda: torchebm_chain(net, settings, device), True),
        EBMKIT: (lambda: ebmkit_chain(net, settings), True),
    }
    return {name: builder(name, make, optional) for name, (make, optional) in made.items()}


def floor_builders(settings: ChainSettings, device: torch.device | str) -> list[Builder]:
    """The products alone, in fp32 and bf16."""
    return product_builders(settings.products * settings.steps, device)


def product_builders(products: Sequence[Product], device: torch.device | str) -> list[Builder]:
    """These products alone, in fp32 and bf16."""

    def make(name: str, dtype: torch.dtype) -> Builder:
        return Builder(name, lambda: bare_products(name, products, dtype, device), optional=True)

    return [make(FP32, torch.float32), make(BF16, torch.bfloat16)]


# --- the energy -------------------------------------------------------------------------------------------


def make_energy(size: int, width: int, depth: int) -> WindowEnergy:
    """The literature's network, `depth` hidden layers of SiLU, as the package has it: with a condition."""
    network = NetworkConfig(context_frames=1, width=width, depth=depth, architecture="mlp", whitening=None)
    return WindowEnergy(1, size, network, confinement=0.0, levels=False)


def no_condition(rows: int, device: torch.device | str) -> dict[str, Tensor]:
    """A condition (B, 1) of zeros, under which the energy is one of x alone."""
    return {"context": torch.zeros(rows, 1, device=device)}


class PlainNetwork(nn.Sequential):
    """x (B, n) to energies (B,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


def plain_network(energy: WindowEnergy) -> PlainNetwork:
    """The same function of x, with copies of the same weights, as anyone would write it; for the peers."""
    network: Any = energy.network
    first = nn.Linear(network.x.in_features, network.x.out_features)
    hidden = [
        nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else nn.SiLU()
        for layer in network.rest
    ]
    net = PlainNetwork(first, *hidden)
    with torch.no_grad():
        first.weight.copy_(network.x.weight)
        first.bias.copy_(network.condition.bias)
        for mine, theirs in zip(hidden, network.rest, strict=True):
            mine.load_state_dict(theirs.state_dict())
    needed = next(network.parameters()).requires_grad
    return net.to(network.x.weight.device).requires_grad_(needed)


def weight_count(sizes: Sequence[int]) -> int:
    """Weights and biases of the layers `sizes` and of one output."""
    return sum((a + 1) * b for a, b in zip(sizes, [*sizes[1:], 1], strict=True))


# --- the chains -------------------------------------------------------------------------------------------


def our_chain(energy: WindowEnergy, settings: ChainSettings) -> Chain:
    """`langevin` as models and training call it: what depends on the condition is part of a call."""
    config = LangevinConfig(steps=settings.steps, step_size=settings.step_size)
    still = dataclasses.replace(config, noise=0.0)

    def chain(start: Tensor, noise: bool) -> Tensor:
        bound = energy.bind(no_condition(len(start), start.device))
        return langevin(bound, start, config if noise else still).x

    return chain


def forced_chain(energy: WindowEnergy, settings: ChainSettings, backend: Any) -> Chain:
    """The same with a backend of the sampler forced, see `core.backends`."""
    from ebm_traj.core import backends

    chain = our_chain(energy, settings)

    def forced(start: Tensor, noise: bool) -> Tensor:
        with backends.use(backend):
            return chain(start, noise)

    return forced


def _forced(energy: WindowEnergy, settings: ChainSettings, backend: str) -> Callable[[], Chain]:
    return lambda: forced_chain(energy, settings, backend)


def plain_chain(net: nn.Module, settings: ChainSettings) -> Chain:
    """The loop of a tutorial."""

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(net(x).sum(), x)[0]

    return _loop(gradient, settings)


def compiled_chain(net: nn.Module, settings: ChainSettings, device: torch.device | str) -> Chain:
    """The same loop with energy and gradient compiled into one function."""
    on_gpu = torch.device(device).type == "cuda"
    gradient = torch.compile(
        torch.func.grad(lambda x: net(x).sum()),
        dynamic=False,
        mode="reduce-overhead" if on_gpu else "default",  # CUDA graphs: hundreds of launches become one
    )
    return _loop(gradient, settings)


def _loop(gradient: Callable[[Tensor], Tensor], settings: ChainSettings) -> Chain:
    step, scale = settings.step_size, math.sqrt(2 * settings.step_size)

    def chain(start: Tensor, noise: bool) -> Tensor:
        x = start
        for _ in range(settings.steps):
            x = x - step * gradient(x)
            if noise:
                x = x + scale * torch.randn_like(x)
        return x

    return chain


def graphed_chain(net: nn.Module, settings: ChainSettings, start: Tensor) -> Chain:
    """The plain loop captured once as a CUDA graph, for a start of this shape, and replayed."""
    walk, begin = plain_chain(net, settings), start.clone()

    def capture(noise: bool) -> Callable[[], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMING):
                walk(begin, noise)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            end = walk(begin, noise)

        def replay() -> Tensor:
            graph.replay()
            return end

        return replay

    replays = {noise: capture(noise) for noise in (False, True)}

    def chain(start: Tensor, noise: bool) -> Tensor:
        begin.copy_(start)
        return replays[noise]().clone()

    return chain


def torchebm_model(net: nn.Module, device: torch.device | str) -> Any:
    """The network as torchebm wants it."""
    from torchebm.core import BaseModel

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__(device=device)
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Model().to(device)


def torchebm_sampler(model: Any, step_size: float, device: torch.device | str, noise: bool = True) -> Any:
    """Its Langevin dynamics; the noise is sqrt(2 * step size) times its `noise_scale`."""
    from torchebm.samplers import LangevinDynamics

    return LangevinDynamics(
        model, step_size=step_size, noise_scale=1.0 if noise else NO_NOISE, device=torch.device(device)
    )


def torchebm_chain(net: nn.Module, settings: ChainSettings, device: torch.device | str) -> Chain:
    """torchebm's Langevin dynamics, without diagnostics."""
    model = torchebm_model(net, device)
    samplers = {noise: torchebm_sampler(model, settings.step_size, device, noise) for noise in (True, False)}
    return lambda start, noise: samplers[noise].sample(x=start, n_steps=settings.steps)


def ebmkit_chain(net: nn.Module, settings: ChainSettings) -> Chain:
    """ebmkit's Langevin dynamics."""
    from ebm.samplers import LangevinDynamics

    samplers = {
        noise: LangevinDynamics(settings.step_size, settings.steps, noise_scale=None if noise else 0.0)
        for noise in (True, False)
    }
    return lambda start, noise: samplers[noise].sample(net, start)
