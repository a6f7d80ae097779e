"""Step sizes that find themselves: dual averaging towards a target acceptance probability."""

import math

import torch
from torch import Tensor

# Hoffman & Gelman 2014, section 3.2.1: the pull to the start, the weight of the first updates, the forgetting
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75


class DualAveraging:
    """Dual averaging of log(step size) (Hoffman & Gelman 2014, eq. 6; Nesterov 2009).

    One step size for a whole batch of chains, so one update sees their mean acceptance probability. All is
    kept in 0-d tensors on the chains' device: nothing waits for it.
    """

    def __init__(self, step_size: float, target: float, device: torch.device | None = None) -> None:
        # the published pull is to ten times the start; here the start is often a step size carried over
        self._centre = math.log(step_size)
        self._target = target
        self._error = torch.zeros((), device=device)
        self._log_step = self._log_averaged = torch.full((), self._centre, device=device)
        self._updates = 0

    @property
    def step_size(self) -> Tensor:
        """The step size to try next, 0-d."""
        return self._log_step.exp()

    @property
    def averaged(self) -> Tensor:
        """The step size to keep once adaptation ends, 0-d; the average of those tried, late ones foremost."""
        return self._log_averaged.exp()

    def update(self, log_ratio: Tensor) -> None:
        """Learn from one transition's logarithms (B,) of the Metropolis ratio; a NaN counts as rejected."""
        probability = torch.nan_to_num(log_ratio.clamp(max=0).exp(), nan=0.0).mean()
        self._updates += 1
        m = self._updates
        weight = 1 / (m + T0)
        self._error = (1 - weight) * self._error + weight * (self._target - probability)
        self._log_step = self._centre - math.sqrt(m) / GAMMA * self._error
        forget = m**-KAPPA
        self._log_averaged = forget * self._log_step + (1 - forget) * self._log_averaged
