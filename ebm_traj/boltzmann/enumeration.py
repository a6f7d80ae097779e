"""Exact figures of small machines, by summing over all states of up to 20 or so units."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.errors import InputError

MOST_UNITS = 22  # four million states
CHUNK = 1 << 14  # states at once


def binary_states(units: int, like: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """All 2^units states, (at most chunk, units) at a time, in the dtype and on the device of `like`.

    Unit 0 is the highest bit of the state's number. InputError if there are too many.
    """
    if units > MOST_UNITS:
        raise InputError(f"enumeration: {units} units; accepted are up to {MOST_UNITS}")
    bits = torch.arange(units - 1, -1, -1, device=like.device)
    for start in range(0, 1 << units, chunk):
        numbers = torch.arange(start, min(start + chunk, 1 << units), device=like.device)
        yield ((numbers[:, None] >> bits) & 1).to(like.dtype)


def log_sum(energy: Callable[[Tensor], Tensor], units: int, like: Tensor) -> Tensor:
    """log of the sum of exp(-energy) over all states, 0-d."""
    return torch.stack([(-energy(states)).logsumexp(0) for states in binary_states(units, like)]).logsumexp(0)


def exact_log_z(rbm: RBM) -> Tensor:
    """log Z of an RBM, 0-d, differentiable: the sum over its smaller layer (the hidden one if v is Gaussian).

    Raises InputError if that layer has more than `MOST_UNITS` units.
    """
    if rbm.units == "bernoulli" and rbm.visible_size < rbm.hidden_size:
        return log_sum(rbm, rbm.visible_size, rbm.weights)
    return log_sum(rbm.hidden_free_energy, rbm.hidden_size, rbm.weights)


@torch.no_grad()
def exact_samples(rbm: RBM, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent draws v (count, n) from the machine: h by its exact probabilities, then v given h.

    Raises InputError if there are too many hidden units.
    """
    states = torch.cat(list(binary_states(rbm.hidden_size, rbm.weights)))
    probability = (-rbm.hidden_free_energy(states)).softmax(0)
    picks = torch.multinomial(probability, count, replacement=True, generator=generator)
    return rbm.sample_visible(states[picks], generator)
