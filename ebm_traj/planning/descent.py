"""Plans improved along the slope of all that they are judged by: the wishes and a model's energy.

Gradients through learned dynamics find in a few steps what samples do not, and also what no simulator would
follow: plans that the dynamics err about. The energy of a model of the data says which those are (Du, Lin &
Mordatch 2019, 1909.06878; of gradients beside the cross-entropy method: Bharadhwaj et al. 2020, 2003.10768).
"""

import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.planning.plan import late

BETAS = (0.8, 0.95)  # of Adam: means over few steps, for there are few


@dataclasses.dataclass(frozen=True)
class DescentConfig:
    """Settings of the descent."""

    steps: int = 0
    """Gradient steps from the plan that sampling found; 0 for none."""
    rate: float = 0.15
    """Adam's learning rate, in half-widths of the action box."""
    energy_weight: float = 0.01
    """Of a joint model's energy beside the wishes, per nat of a window; 0 for the wishes alone."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"descent steps: {self.steps}; accepted are 0 and more")
        if not 0 < self.rate < math.inf:
            raise InputError(f"descent rate: {self.rate}; it must be above 0")
        if not 0 <= self.energy_weight < math.inf:
            raise InputError(f"descent energy weight: {self.energy_weight}; it must be 0 or more")


def descend(
    start: Tensor, judge: Callable[[Tensor], Tensor], config: DescentConfig, deadline: float | None = None
) -> Tensor:
    """Of all scaled actions (B, H, A) on the way down from `start`, in each row those `judge` likes best.

    `judge` maps them to (B,), low where they are good, differentiably. The way ends early where the next step
    would end after `deadline` (of `time.perf_counter`).
    """
    with torch.inference_mode(False), torch.enable_grad():
        plan = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([plan], lr=config.rate, betas=BETAS)
        kept, lowest = start.clone(), torch.full_like(start[:, 0, 0], math.inf)
        longest = 0.0
        for step in range(config.steps + 1):
            began = time.perf_counter()
            value = judge(plan)
            better = value.detach() < lowest
            lowest = torch.where(better, value.detach(), lowest)
            kept = torch.where(better[:, None, None], plan.detach(), kept)
            if step == config.steps or late(deadline, longest):
                break
            (plan.grad,) = torch.autograd.grad(value.sum(), plan)
            plan.grad.nan_to_num_(0.0, 0.0, 0.0)
            adam.step()
            with torch.no_grad():
                plan.clamp_(-1, 1)
            longest = max(longest, time.perf_counter() - began)
    return kept
