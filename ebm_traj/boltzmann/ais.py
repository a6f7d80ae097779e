"""Annealed importance sampling of an RBM's normalising constant, forward and in reverse."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.boltzmann.tempering import Path
from ebm_traj.errors import InputError
from ebm_traj.intervals import Z_95

RESAMPLES = 1000  # of the chains' weights, for the interval


@dataclasses.dataclass(frozen=True)
class AISConfig:
    """The annealing schedule; by default as long as that of Melchior, Fischer & Wiskott (2016)."""

    counts: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Betas in each stretch, evenly spaced."""
    ends: tuple[float, ...] = (0.5, 0.9, 1.0)
    """Where the stretches end; the last at 1."""
    chains: int = 100
    """Independent chains."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.ends) or not self.counts or min(self.counts) < 1:
            raise InputError(
                f"AIS: counts {self.counts} for stretches to {self.ends}; needed is one of 1 or more for each"
            )
        if list(self.ends) != sorted(set(self.ends)) or self.ends[0] <= 0 or self.ends[-1] != 1:
            raise InputError(f"AIS ends: {self.ends}; they must rise, from above 0 to 1")
        if self.chains < 2:
            raise InputError(f"AIS chains: {self.chains}; accepted are 2 and more")

    @property
    def betas(self) -> list[float]:
        """From 0 to 1, both included."""
        found = [0.0]
        for count, end in zip(self.counts, self.ends, strict=True):
            start = found[-1]
            found += [start + (end - start) * (i + 1) / count for i in range(count)]
        return found


SHORT_AIS = AISConfig(counts=(100, 400, 1000), chains=100)
"""Some seconds on a large machine: for curves along a training."""
USUAL_AIS = AISConfig(counts=(500, 4_000, 10_000), chains=100)
"""The schedule of Salakhutdinov & Murray (2008)."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with a 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class LogZ(Estimate):
    """An estimate of log Z. The interval is that of the chains' weights (bootstrap): it knows nothing of a
    mode that all chains missed."""

    log_weights: tuple[float, ...]
    """Of each chain; forward: of Z over the base machine's, in reverse: of the inverse."""


@torch.no_grad()
def ais(
    rbm: RBM,
    base: Tensor,
    config: AISConfig,
    generator: torch.Generator,
    *,
    progress: bool = False,
) -> LogZ:
    """log Z by annealing from independent units of biases `base` (n,) to the machine (Neal 2001).

    The mean of Z over chains is unbiased, so its log errs on the low side: log-likelihoods come out too high.
    """
    path = Path(rbm, base)
    v = path.start(config.chains, generator)
    total = torch.zeros(config.chains, dtype=torch.float64, device=v.device)
    betas = config.betas
    for k in tqdm(range(1, len(betas)), disable=not progress, desc="AIS", mininterval=1):
        x = path.hidden_input(v)
        total += path.log_ratio(v, x, betas[k], betas[k - 1])
        if k < len(betas) - 1:
            _, v = path.step(x, betas[k], generator)
    return _log_z(total, path.base_log_z - path.constant, 1)


@torch.no_grad()
def reverse_ais(
    rbm: RBM,
    base: Tensor,
    config: AISConfig,
    samples: Tensor,
    generator: torch.Generator,
    *,
    progress: bool = False,
) -> LogZ:
    """log Z by annealing back from `samples` (chains, n) of the machine to independent units.

    If they are exact draws the estimate errs on the high side (Grosse, Ghahramani & Adams 2015); draws of
    chains that have not reached the machine's distribution leave that open.
    """
    path = Path(rbm, base)
    if samples.shape[1:] != (rbm.visible_size,) or len(samples) < 2:
        raise InputError(
            f"samples: shape {tuple(samples.shape)}; accepted is (2 or more, {rbm.visible_size})"
        )
    v = samples.to(path.weights)
    total = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    betas = config.betas
    for k in tqdm(range(len(betas) - 1, 0, -1), disable=not progress, desc="reverse AIS", mininterval=1):
        x = path.hidden_input(v)
        total += path.log_ratio(v, x, betas[k - 1], betas[k])
        if k > 1:
            _, v = path.step(x, betas[k - 1], generator)
    return _log_z(total, path.base_log_z - path.constant, -1)


def _log_z(log_weights: Tensor, offset: float, sign: int) -> LogZ:
    weights = log_weights.cpu()
    count = len(weights)
    value = float(weights.logsumexp(0)) - math.log(count)
    picks = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    means = weights[picks].logsumexp(1) - math.log(count)
    ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    low, high = sorted(offset + sign * end for end in ends)
    return LogZ(offset + sign * value, low, high, tuple(weights.tolist()))


@torch.no_grad()
def log_likelihood(rbm: RBM, rows: Tensor, log_z: Estimate, chunk: int = 10_000) -> Estimate:
    """Mean log-likelihood of rows (N, n), nats a row; the interval adds that of log Z to the rows' own."""
    energies = torch.cat([rbm(part).double() for part in rows.split(chunk)])
    value = -float(energies.mean()) - log_z.value
    error = Z_95 * float(energies.std()) / math.sqrt(len(energies)) if len(energies) > 1 else math.nan
    up, down = math.hypot(error, log_z.value - log_z.low), math.hypot(error, log_z.high - log_z.value)
    return Estimate(value, value - down, value + up)


def combine(parts: Sequence[Estimate]) -> Estimate:
    """The mean of estimates, with the interval from the lowest end to the highest."""
    value = sum(part.value for part in parts) / len(parts)
    return Estimate(value, min(part.low for part in parts), max(part.high for part in parts))
