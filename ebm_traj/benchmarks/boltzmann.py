"""Speed of learning an RBM by persistent CD-1: ours against scikit-learn's BernoulliRBM, at equal work.

In every row a call makes one update for each of `batches` minibatches of the same binary rows: hidden means
of data, one step of block Gibbs of as many persistent chains, and one step along the gradient. Ours without
centring does exactly what scikit-learn does, in the same precision; the other rows of ours say what differs.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    wait_for,
)
from ebm_traj.boltzmann.learning import Learner, LearningConfig, Precision
from ebm_traj.boltzmann.rbm import RBM

OURS = "ebm_traj"
LEARNING_RATE = 0.01
ON = 0.13  # share of pixels that are 1, as in MNIST


@dataclasses.dataclass(frozen=True)
class RBMSettings:
    """The updates that are timed."""

    batch: int = 100
    """Rows of data, and chains."""
    visible: int = 784
    """Visible units."""
    hidden: int = 500
    """Hidden units."""
    batches: int = 10
    """Updates in a call."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            require_positive(field.name, getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class RBMResult:
    """What was found."""

    settings: RBMSettings
    rows: list[Row]
    absent: list[Absent]

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        title = f"{s.batches} updates by PCD-1, {s.visible} - {s.hidden} units, batch {s.batch}"
        return markdown(self.rows, self.absent, title=title)


def benchmark_boltzmann(
    settings: RBMSettings,
    *,
    rounds: int = 20,
    device: torch.device | str = "cpu",
    block_seconds: float = 0.1,
    seed: int = 0,
) -> RBMResult:
    """All rows; see the module. scikit-learn's stay on the CPU, with as many threads of BLAS as torch has."""
    from threadpoolctl import threadpool_limits

    require_positive("rounds", rounds)
    with threadpool_limits(torch.get_num_threads(), "blas"):
        contenders, absent = gather(list(_builders(settings, device, seed)))
        times = measure(contenders, rounds=rounds, block_seconds=block_seconds, device=device, seed=seed)
    trained = settings.batch * settings.batches
    rows = [
        dataclasses.replace(row, beside={"rows/s": round(trained / row.seconds)})
        for row in rows_of(times, contenders)
    ]
    return RBMResult(settings, rows, absent)


def _builders(settings: RBMSettings, device: torch.device | str, seed: int) -> Iterator[Builder]:
    made: dict[str, Callable[[], Callable[[], None]]] = {
        OURS: lambda: our_updates(settings, device, seed),
        f"{OURS}, centred": lambda: our_updates(settings, device, seed, centred=True),
        f"{OURS}, bfloat16 products": lambda: our_updates(settings, device, seed, precision="bfloat16"),
        "scikit-learn, float32": lambda: sklearn_updates(settings, seed, np.float32),
        "scikit-learn, float64": lambda: sklearn_updates(settings, seed, np.float64),
    }
    for name, make in made.items():
        yield Builder(name, _contender(name, make), optional="bfloat16" in name)


def _contender(name: str, make: Callable[[], Callable[[], None]]) -> Callable[[], Contender]:
    return lambda: Contender(name, make())


def rows_of_data(settings: RBMSettings, seed: int) -> Tensor:
    """Binary rows (batches * batch, visible)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(settings.batches * settings.batch, settings.visible, generator=generator) < ON).float()


def our_updates(
    settings: RBMSettings,
    device: torch.device | str,
    seed: int,
    *,
    centred: bool = False,
    precision: Precision = "float32",
) -> Callable[[], None]:
    """`Learner`'s updates."""
    data = rows_of_data(settings, seed).to(device)
    rbm = RBM(settings.visible, settings.hidden).to(device).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(seed)
    rbm.initialise(data.mean(0), generator)
    config = LearningConfig(chains=settings.batch, centred=centred, precision=precision)
    learner = Learner(rbm, config, settings.batch, data.mean(0))
    parts = data.split(settings.batch)

    def run() -> None:
        for part in parts:
            learner.update(part, LEARNING_RATE, generator)
        wait_for(device)

    return run


def sklearn_updates(settings: RBMSettings, seed: int, dtype: type) -> Callable[[], None]:
    """The inner loop of `BernoulliRBM.fit`, without its checks and the drawing of first weights."""
    from sklearn.neural_network import BernoulliRBM

    data: NDArray[np.floating] = rows_of_data(settings, seed).numpy().astype(dtype)
    model = BernoulliRBM(
        settings.hidden, learning_rate=LEARNING_RATE, batch_size=settings.batch, n_iter=1, random_state=seed
    )
    model.fit(data)
    rng = np.random.RandomState(seed)
    slices = [slice(i * settings.batch, (i + 1) * settings.batch) for i in range(settings.batches)]

    def run() -> None:
        for part in slices:
            model._fit(data[part], rng)

    return run
