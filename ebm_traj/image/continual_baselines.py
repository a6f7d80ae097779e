"""Class-incremental learners to compare energies with: a softmax network, alone, with EWC, with replay."""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn

from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.class_energy import ClassEnergies

Likelihood = Literal["categorical", "gaussian"]


@dataclasses.dataclass(frozen=True)
class SoftmaxConfig:
    """A network of two hidden layers with one output for every class, tasks to come included."""

    width: int = 400
    """Of both hidden layers."""
    learning_rate: float = 1e-3
    """Of Adam."""
    own_classes: bool = False
    """Softmax over the classes of the batch alone instead of all: what comes later is not pushed down."""
    penalty: float = 0.0
    """Weight of EWC's penalty; 0 is plain fine-tuning."""
    fisher_rows: int = 1000
    """Pictures of a task, read a second time at its end, over which EWC's Fisher information is averaged."""
    replayed: int = 500
    """Generated pictures of each earlier class, drawn anew at the end of each task, where there is replay."""

    def __post_init__(self) -> None:
        for name in ("width", "fisher_rows", "replayed"):
            if getattr(self, name) < 1:
                raise InputError(f"softmax {name}: {getattr(self, name)}; accepted are 1 and more")
        if not self.learning_rate > 0:
            raise InputError(f"softmax learning rate: {self.learning_rate}; it must be above 0")
        if not self.penalty >= 0:
            raise InputError(f"EWC penalty: {self.penalty}; accepted are 0 and more")


class SoftmaxLearner:
    """Fine-tuning by cross-entropy; with `penalty` EWC, with `energies` replay of what these generate."""

    def __init__(
        self,
        size: int,
        num_classes: int,
        config: SoftmaxConfig,
        seed: int,
        energies: ClassEnergies | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "softmax"))
            self.network = nn.Sequential(
                *[nn.Linear(size, config.width), nn.ReLU()],
                *[nn.Linear(config.width, config.width), nn.ReLU()],
                nn.Linear(config.width, num_classes),
            )
        self.config = config
        self.energies = energies
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.pool: dict[int, Tensor] = {}
        """Generated pictures of earlier classes."""
        self.anchor = Anchor()
        self._seed = seed
        self._generator = seeded_generator("cpu", seed, "softmax")
        self._tasks = 0

    @property
    def parameters(self) -> int:
        """Numbers learnt, those of the energies that generate included."""
        own = sum(p.numel() for p in self.network.parameters())
        return own + (self.energies.parameters if self.energies else 0)

    @property
    def kept(self) -> int:
        """Numbers kept beside them from task to task: anchors and Fisher information."""
        return self.anchor.numbers

    def observe(self, x: Tensor, y: Tensor) -> None:
        """One step on rows x (B, D) of classes y (B,), and on as many generated ones of each old class."""
        if self.energies is not None:
            self.energies.observe(x, y)
        each = max(1, len(x) // len(y.unique()))
        for label, rows in self.pool.items():
            pick = torch.randint(len(rows), (each,), generator=self._generator)
            x, y = torch.cat([x, rows[pick]]), torch.cat([y, torch.full((each,), label)])
        scores = self.network(x)
        if self.config.own_classes:
            present, y = y.unique(return_inverse=True)
            scores = scores[:, present]
        loss = nn.functional.cross_entropy(scores, y)
        if self.config.penalty:
            loss = loss + self.config.penalty * self.anchor.penalty(self.network)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """Told that a task is over, with its pictures x (N, D): EWC reads some of them once more."""
        self._tasks += 1
        if self.config.penalty:
            own = y.unique() if self.config.own_classes else None  # of the likelihood that was trained
            rows = x[: self.config.fisher_rows]
            self.anchor.add(self.network, fisher_diagonal(self.network, rows, classes=own))
        if self.energies is not None:
            seed = derive_seed(self._seed, "replay", self._tasks)
            known = self.energies.known
            self.pool = {c: self.energies.sample(c, self.config.replayed, seed) for c in known}

    def predict(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B,) the likeliest of the classes (K,)."""
        with torch.no_grad():
            return classes[self.network(x)[:, classes].argmax(1)]


class Anchor:
    """EWC's quadratic penalty, 1/2 sum_k sum_i F_ki (t_i - t_ki)^2 over earlier tasks k (1612.00796, eq. 3).

    The sum over tasks of quadratics is one quadratic: kept are the sum of the F_k and their mean place, so
    that memory does not grow with the number of tasks.
    """

    def __init__(self) -> None:
        self.weight: list[Tensor] = []
        self.place: list[Tensor] = []

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return sum(w.numel() for w in (*self.weight, *self.place))

    def add(self, network: nn.Module, fisher: list[Tensor]) -> None:
        """Anchor the network's weights as they are, with these weights."""
        now = [p.detach().clone() for p in network.parameters()]
        if not self.weight:
            self.weight, self.place = fisher, now
            return
        total = [w + f for w, f in zip(self.weight, fisher, strict=True)]
        self.place = [
            torch.where(t > 0, (w * a + f * p) / t.clamp_min(torch.finfo(t.dtype).tiny), p)
            for w, a, f, p, t in zip(self.weight, self.place, fisher, now, total, strict=True)
        ]
        self.weight = total

    def penalty(self, network: nn.Module) -> Tensor:
        """0-d, up to a constant."""
        pairs = zip(network.parameters(), self.weight, self.place, strict=False)
        terms = [(w * (p - a).square()).sum() for p, w, a in pairs]
        return 0.5 * torch.stack(terms).sum() if terms else torch.zeros(())


def fisher_diagonal(
    network: nn.Sequential, x: Tensor, likelihood: Likelihood = "categorical", classes: Tensor | None = None
) -> list[Tensor]:
    """Diagonal of the Fisher information of a network's parameters, averaged over rows x (N, D).

    E_x E_y~p(y|x) (d log p(y | x) / d t)^2, the expectation over y taken exactly: for `categorical` p is the
    softmax of the outputs, for `gaussian` N(outputs, 1). A row's gradient by a linear layer's weight is an
    outer product, so that its square summed over rows is a product of squares. `classes` (K,) are the
    outputs that p is over, where it is not all of them.

    Raises InputError if a module with parameters is not linear.
    """
    layers = [module for module in network if isinstance(module, nn.Linear)]
    if len([p for module in layers for p in module.parameters()]) != len(list(network.parameters())):
        raise InputError("Fisher information: only linear layers can have parameters")
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, given: tuple[Tensor], result: Tensor) -> None:
        inputs[module], outputs[module] = given[0].detach(), result

    hooks = [layer.register_forward_hook(remember) for layer in layers]
    with torch.enable_grad():
        scores = network(x) if classes is None else network(x)[:, classes]
    for hook in hooks:
        hook.remove()
    fisher = [torch.zeros_like(p) for p in network.parameters()]
    for column in range(scores.shape[1]):
        if likelihood == "categorical":
            log_p = torch.log_softmax(scores, 1)[:, column]
            root = (0.5 * log_p.detach()).exp()  # the square is weighted by p
        else:  # d log N(y | m, 1) / d m has variance 1
            log_p, root = scores[:, column], torch.ones_like(scores[:, 0])
        slopes = torch.autograd.grad(
            (log_p * root).sum(), [outputs[layer] for layer in layers], retain_graph=True
        )
        place = 0
        for layer, slope in zip(layers, slopes, strict=True):
            fisher[place] += slope.square().T @ inputs[layer].square() / len(x)
            place += 1
            if layer.bias is not None:
                fisher[place] += slope.square().mean(0)
                place += 1
    return fisher


class GaussianClasses:
    """A Gaussian energy for each class in closed form, from running sums: no gradient, nothing forgotten."""

    def __init__(self, size: int, num_classes: int, shrinkage: float = 0.1) -> None:
        """`shrinkage` is added to each pixel's variance, in units of the spread of all pixels."""
        if not shrinkage > 0:
            raise InputError(f"shrinkage: {shrinkage}; it must be above 0")
        self.shrinkage = shrinkage
        self.count = torch.zeros(num_classes, dtype=torch.float64)
        self.sum = torch.zeros(num_classes, size, dtype=torch.float64)
        self.square = torch.zeros(num_classes, size, size, dtype=torch.float64)

    @property
    def parameters(self) -> int:
        """Means and covariances (half of them, as they are symmetric)."""
        classes, size = self.sum.shape
        return classes * (size + size * (size + 1) // 2)

    @property
    def kept(self) -> int:
        return 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Add rows x (B, D) of classes y (B,) to the sums."""
        wide = x.double()
        for label in y.unique().tolist():
            rows = wide[y == label]
            self.count[label] += len(rows)
            self.sum[label] += rows.sum(0)
            self.square[label] += rows.T @ rows

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """Nothing to do."""

    def predict(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B,) the class of the highest log density."""
        wide, found = x.double(), []
        for label in classes.tolist():
            mean = self.sum[label] / self.count[label]
            cov = self.square[label] / self.count[label] - mean[:, None] * mean
            factor = torch.linalg.cholesky(cov + self.shrinkage * torch.eye(len(mean), dtype=torch.float64))
            white = torch.linalg.solve_triangular(factor, (wide - mean).T, upper=False)
            found.append(-0.5 * white.square().sum(0) - factor.diagonal().log().sum())
        return classes[torch.stack(found, 1).argmax(1)]


def t_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t; nan for one value."""
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
