"""Speed of one step of contrastive divergence with replay: ours, plain PyTorch and the nearest libraries.

In every row a step walks `batch` chains for the same number of Langevin steps, 95 % of them from a full
replay buffer, writes their ends back, takes the energies of as many rows of data and of samples, and makes
one step of Adam. Ours keeps the data of a replayed chain beside it and so draws new windows for the other 5 %
only, as its training does; the others draw a whole batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebm_traj.benchmarks.chain import (
    EBMKIT,
    GPU_BACKENDS,
    OURS,
    PLAIN,
    TORCHEBM,
    ChainSettings,
    make_energy,
    no_condition,
    plain_chain,
    plain_network,
    product_builders,
    torchebm_model,
    torchebm_sampler,
    weight_count,
)
from ebm_traj.benchmarks.floor import Floor, Product, chain_products, loss_products, make_floor
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
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Condition
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.recorded_step import WARM_UP, RecordedStep
from ebm_traj.errors import InputError

NEW = 0.05  # share of the chains that start anew
REGULARISATION = 0.01
RECORDED = f"{OURS}, step recorded"
LEARNING_RATE = 1e-5  # the data are noise: nothing is to be learned, and weights must stay where they are

Step = Callable[[], Tensor]
"""One step of training; its loss (0-d), detached."""


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """The step of training that is timed."""

    batch: int = 512
    """Rows of data, and chains."""
    size: int = 31
    """Numbers in a frame."""
    window: int = 1
    """Frames in x."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    steps: int = 60
    """Steps of the unadjusted chain."""
    step_size: float = 0.01
    """Factor of the gradient."""
    buffer: int = 10_000
    """Slots of the replay buffer."""
    data: int = 100_000
    """Frames of the data set, which lies on the device."""

    def __post_init__(self) -> None:
        for name in ("batch", "size", "window", "width", "depth", "steps", "buffer"):
            require_positive(name, getattr(self, name))
        if self.buffer < self.batch:
            raise InputError(f"--buffer {self.buffer}: it must hold a batch of {self.batch}")
        if self.data < self.window:
            raise InputError(f"--data {self.data}: it must hold a window of {self.window} frames")
        if not self.step_size > 0:
            raise InputError(f"--step-size {self.step_size}: it must be above 0")

    @property
    def chain(self) -> ChainSettings:
        """The chain within a step."""
        return ChainSettings(
            self.batch, self.window * self.size, self.width, self.depth, self.steps, self.step_size
        )

    @property
    def products(self) -> list[Product]:
        """Those of the chain and of the loss."""
        sizes = self.chain.sizes
        return chain_products(self.batch, sizes) * self.steps + loss_products(2 * self.batch, sizes)

    @property
    def kept(self) -> int:
        """Numbers that a step must read or write: chains and their data, weights and their two moments."""
        return 4 * self.batch * self.window * self.size + 6 * weight_count(self.chain.sizes)


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What was found."""

    settings: StepSettings
    rows: list[Row]
    absent: list[Absent]
    floor: Floor

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        layers = "-".join(map(str, [*s.chain.sizes, 1]))
        title = f"step of contrastive divergence, batch {s.batch}, {s.steps} steps, energy {layers}"
        return markdown(self.rows, self.absent, title=title) + "\n\n" + self.floor.text(self.rows)


def benchmark_train(
    settings: StepSettings,
    *,
    rounds: int = 20,
    device: torch.device | str = "cpu",
    block_seconds: float = 0.1,
    seed: int = 0,
) -> StepResult:
    """All rows and the floor; see the module."""
    require_positive("rounds", rounds)
    builders = train_builders(settings, device, seed)
    contenders, absent = gather([*builders.values(), *product_builders(settings.products, device)])
    times = measure(contenders, rounds=rounds, block_seconds=block_seconds, device=device, seed=seed)
    floor = make_floor(settings.products, settings.kept, device)
    return StepResult(settings, rows_of(times, contenders), absent, floor)


def train_builders(settings: StepSettings, device: torch.device | str, seed: int) -> dict[str, Builder]:
    """A builder for each step of training by its name, ours first; all read the same data."""
    data = Data(settings, device, seed)
    backends = ("autograd", *(GPU_BACKENDS if data.device.type == "cuda" else ()))
    gpu = data.device.type == "cuda"
    made: dict[str, tuple[Callable[[], Step], bool]] = {
        OURS: (lambda: our_step(settings, data, seed), False),
        **({RECORDED: (lambda: recorded_step(settings, data, seed), True)} if gpu else {}),
        **{f"{OURS}, {name}": (_forced(settings, data, seed, name), True) for name in backends},
        PLAIN: (lambda: plain_step(settings, data, seed), False),
        TORCHEBM: (lambda: torchebm_step(settings, data, seed), True),
        EBMKIT: (lambda: ebmkit_step(settings, data, seed), True),
    }

    def builder(name: str, make: Callable[[], Step], optional: bool) -> Builder:
        return Builder(name, lambda: Contender(name, make()), optional)

    return {name: builder(name, make, optional) for name, (make, optional) in made.items()}


class Data:
    """Windows of frames of noise, gathered by index."""

    def __init__(self, settings: StepSettings, device: torch.device | str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.frames = torch.randn(settings.data, settings.size, generator=generator).to(device)
        self.window = torch.arange(settings.window, device=device)
        self.device = torch.device(device)

    def draw(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """x (rows, window * size)."""
        last = len(self.frames) - len(self.window)
        starts = torch.randint(last + 1, (rows,), generator=generator, device=self.device)
        return self.frames[starts[:, None] + self.window].flatten(1)


# --- the steps --------------------------------------------------------------------------------------------


def our_step(settings: StepSettings, data: Data, seed: int) -> Step:
    """`ContrastiveDivergence` as the trainer calls it, its figures for the log included."""
    objective = our_objective(settings, data, seed)
    generator = torch.Generator(data.device).manual_seed(seed)
    known = no_condition(objective.new_rows, data.device)

    def loss() -> Tensor:
        return objective(Batch(data.draw(objective.new_rows), known), generator)[0]

    return step_of(loss, objective.energy)


def recorded_step(
    settings: StepSettings, data: Data, seed: int, recorder: RecordedStep | None = None
) -> Step:
    """The same, the whole step replayed as a CUDA graph (`core.recorded_step`).

    Raises RuntimeError if it cannot be recorded.
    """
    objective = our_objective(settings, data, seed)
    recorder = recorder or RecordedStep(data.device, inside=True)
    generator = torch.Generator(data.device).manual_seed(seed)
    known = no_condition(objective.new_rows, data.device)
    rate = torch.tensor(LEARNING_RATE, device=data.device)
    on_gpu = data.device.type == "cuda"
    optimiser = torch.optim.Adam(objective.energy.parameters(), lr=rate, fused=True, capturable=on_gpu)

    def draw(generator: torch.Generator) -> Batch:
        return Batch(data.draw(objective.new_rows, generator), known)

    def advance(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        loss, _ = objective(batch, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    def step() -> Tensor:
        found = recorder(advance, draw, generator, objective.replay_key(), objective.replayed)
        if not recorder.works:
            raise RuntimeError("the step could not be recorded")
        return found["loss"]

    for _ in range(WARM_UP + 1):
        step()
    return step


def our_objective(settings: StepSettings, data: Data, seed: int) -> ContrastiveDivergence:
    """Our contrastive divergence with a full buffer."""
    energy = _energy(settings, data, seed)
    objective = ContrastiveDivergence(
        energy,
        NoiseProposal(lambda condition: _zeros(condition, energy.x_size), 1.0),
        ContrastiveConfig(
            batch_size=settings.batch,
            langevin=LangevinConfig(steps=settings.steps, step_size=settings.step_size),
            buffer_size=settings.buffer,
            replay_fraction=1 - max(1, round(NEW * settings.batch)) / settings.batch,
            energy_regularisation=REGULARISATION,
        ),
    )
    objective.buffer.add(
        {
            "chain": torch.randn(settings.buffer, energy.x_size, device=data.device),
            "data": data.draw(settings.buffer),
            **no_condition(settings.buffer, data.device),
        }
    )
    return objective


def forced_step(settings: StepSettings, data: Data, seed: int, backend: Any) -> Step:
    """The same with a backend of the sampler forced, see `core.backends`."""
    from ebm_traj.core import backends

    step = our_step(settings, data, seed)

    def forced() -> Tensor:
        with backends.use(backend):
            return step()

    return forced


def _forced(settings: StepSettings, data: Data, seed: int, backend: str) -> Callable[[], Step]:
    return lambda: forced_step(settings, data, seed, backend)


def plain_step(settings: StepSettings, data: Data, seed: int) -> Step:
    """The loop of a tutorial, with a buffer on the device."""
    net = plain_network(_energy(settings, data, seed))
    walk = plain_chain(net, settings.chain)
    buffer = torch.randn(settings.buffer, settings.chain.size, device=data.device)
    new = max(1, round(NEW * settings.batch))

    def loss() -> Tensor:
        slots = torch.randint(settings.buffer, (settings.batch,), device=data.device)
        start = buffer[slots]
        start[:new] = torch.randn_like(start[:new])
        samples = walk(start, True).detach()
        buffer[slots] = samples
        positive, negative = net(data.draw(settings.batch)), net(samples)
        size = (positive**2).mean() + (negative**2).mean()
        return positive.mean() - negative.mean() + REGULARISATION * size

    return step_of(loss, net)


def torchebm_step(settings: StepSettings, data: Data, seed: int) -> Step:
    """torchebm's persistent contrastive divergence. It has no chains that start anew: to 5 % of the replayed
    ones it adds noise."""
    from torchebm.losses import ContrastiveDivergence as Theirs

    model = torchebm_model(plain_network(_energy(settings, data, seed)), data.device)
    objective = Theirs(
        model,
        torchebm_sampler(model, settings.step_size, data.device),
        k_steps=settings.steps,
        persistent=True,
        buffer_size=settings.buffer,
        init_steps=0,
        new_sample_ratio=NEW,
        energy_reg_weight=REGULARISATION,
        device=data.device,
    )
    return step_of(lambda: objective(data.draw(settings.batch))[0], model)


def ebmkit_step(settings: StepSettings, data: Data, seed: int) -> Step:
    """ebmkit's contrastive divergence; its buffer lives in the memory of the CPU."""
    from ebm.buffer import ReplayBuffer
    from ebm.losses import ContrastiveDivergence as Theirs
    from ebm.samplers import LangevinDynamics

    net = plain_network(_energy(settings, data, seed))
    objective = Theirs(
        LangevinDynamics(settings.step_size, settings.steps),
        ReplayBuffer(settings.buffer, (settings.chain.size,), reinit_prob=NEW),
        energy_reg=REGULARISATION,
    )
    return step_of(lambda: objective(net, data.draw(settings.batch)).loss, net)


def step_of(loss_of: Callable[[], Tensor], module: nn.Module) -> Step:
    """A step of Adam on a loss."""
    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)

    def step() -> Tensor:
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _energy(settings: StepSettings, data: Data, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_energy(settings.chain.size, settings.width, settings.depth).to(data.device)


def _zeros(condition: Condition, size: int) -> Tensor:
    known = condition["context"]
    return known.new_zeros(len(known), size)
