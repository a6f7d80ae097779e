"""Small machines in float64, and all their states."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM


def _make(visible: int, hidden: int, units: str = "bernoulli", scale: float = 1.0, seed: int = 0) -> RBM:
    generator = torch.Generator().manual_seed(seed)
    rbm = RBM(visible, hidden, units).double().requires_grad_(False)  # type: ignore[arg-type]
    for parameter in rbm.parameters():
        parameter.normal_(0, scale, generator=generator)
    if units == "gaussian":
        rbm.log_scale.normal_(0, 0.3, generator=generator)
    return rbm


def _states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def _shares(samples: Tensor) -> Tensor:
    """Share of the samples (N, n) in each state, in the order of `states`."""
    units = samples.shape[1]
    numbers = (samples.double() @ 2.0 ** torch.arange(units - 1, -1, -1, dtype=torch.float64)).long()
    return torch.bincount(numbers, minlength=2**units).double() / len(samples)


@pytest.fixture
def make() -> Callable[..., RBM]:
    """An RBM with normal parameters of a scale, in float64, without gradients."""
    return _make


@pytest.fixture
def states() -> Callable[[int], Tensor]:
    """All states of some binary units, (2^units, units)."""
    return _states


@pytest.fixture
def shares() -> Callable[[Tensor], Tensor]:
    """How often each state occurs."""
    return _shares
