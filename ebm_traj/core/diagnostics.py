"""How well chains mixed: jump distance, R-hat and effective sample size of a trace (T, B, ...).

A trace holds T states of each of B chains **of one distribution**, in the order walked (`Chain.trace`). For
chains under several conditions, call these for each condition's chains.
"""

import torch
from torch import Tensor

from ebm_traj.core.langevin import Chain
from ebm_traj.errors import InputError


def diagnose(chain: Chain) -> dict[str, float]:
    """Figures of a recorded chain: acceptance, squared jump, the worst R-hat and effective sample size of any
    dimension, and the latter per gradient spent (all B chains' together)."""
    if chain.trace is None:
        raise InputError("trace of the chain: none; run the sampler with record=True")
    effective = float(effective_sample_size(chain.trace).min())
    return {
        "acceptance": float(chain.acceptance),
        "squared_jump": float(squared_jump_distance(chain.trace)),
        "r_hat": float(split_r_hat(chain.trace).max()),
        "effective_samples": effective,
        "effective_samples_per_gradient": effective / max(chain.gradients * chain.trace.shape[1], 1),
    }


def squared_jump_distance(trace: Tensor, scale: Tensor | None = None) -> Tensor:
    """Expected squared jump distance, 0-d: mean of |(x_{t+1} - x_t) / scale|^2 (Pasarica & Gelman 2010).

    In squared units of x, summed over dimensions; rejected steps count as 0. The larger, the faster it mixes.
    """
    _require_states(trace, 2)
    jumps = trace[1:] - trace[:-1]
    if scale is not None:
        jumps = jumps / scale
    return jumps.square().flatten(2).sum(-1).mean()


def split_r_hat(trace: Tensor, *, ranks: bool = True) -> Tensor:
    """Split R-hat (...) of each dimension; 1 when the chains agree, above 1.01 when they do not.

    Each chain is halved, and the variance between halves compared with that within (Gelman & Rubin 1992).
    With `ranks`, the larger of that of the rank-normalised states and that of their distances from the
    median, which stands heavy tails and sees chains of unlike spread (Vehtari et al. 2021). A dimension that
    does not move at all gives 1 if all chains stand at one place, else infinity.
    """
    halves = _split(trace, 4)
    if not ranks:
        return _r_hat(halves)
    centre = halves.flatten(0, 1).median(0).values
    folded = (halves - centre).abs()
    return torch.maximum(_r_hat(_rank_normalised(halves)), _r_hat(_rank_normalised(folded)))


def effective_sample_size(trace: Tensor) -> Tensor:
    """How many independent draws (...) estimate each dimension's mean as well as all T * B states do.

    Autocorrelations of the halved chains by FFT, against the variance within and between them, summed by
    Geyer's initial monotone sequence (Vehtari et al. 2021, section 3.2); so chains that stand at different
    places count little however fast each moves. At most N log10(N) of N states, for antithetic chains.
    """
    halves = _split(trace, 8)
    length, chains = halves.shape[:2]
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * length, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * length, dim=0)[:length] / length
    within = covariance[0].mean(0) * length / (length - 1)
    total = within * (length - 1) / length + halves.mean(0).var(0)
    correlation = 1 - (within - covariance.mean(1)) / total
    correlation[0] = 1
    pairs = correlation[: length // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    # Geyer 1992: sums of neighbours are positive and fall; what breaks this is noise
    known = (pairs > 0).cumprod(0)
    pairs = torch.cummin(pairs.clamp(min=0), 0).values * known
    states = halves.new_tensor(float(length * chains))
    time = (2 * pairs.sum(0) - 1).clamp(min=1 / states.log10())
    return torch.where(total > 0, states / time, torch.ones_like(time))


def _split(trace: Tensor, least: int) -> Tensor:
    """(T // 2, 2 B, ...) float64: each chain's first and last half."""
    _require_states(trace, least)
    half = trace.shape[0] // 2
    return torch.cat([trace[:half], trace[-half:]], dim=1).double()


def _require_states(trace: Tensor, least: int) -> None:
    if trace.dim() < 2 or trace.shape[0] < least or trace.shape[1] < 1:
        raise InputError(f"trace: shape {tuple(trace.shape)}; needs (T, B, ...) with T at least {least}")


def _r_hat(halves: Tensor) -> Tensor:
    length = halves.shape[0]
    within = halves.var(0).mean(0)
    total = within * (length - 1) / length + halves.mean(0).var(0)
    # 0 / 0 is a dimension at rest
    return torch.where(total > 0, total / within, torch.ones_like(total)).sqrt()


def _rank_normalised(halves: Tensor) -> Tensor:
    """Normal scores of the ranks among all states; ties share their mean rank (Blom 1958)."""
    count = halves.shape[0] * halves.shape[1]
    values = halves.reshape(count, -1).T.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    rank = (below + up_to + 1).double() / 2  # counted from 1
    scores = torch.special.ndtri((rank - 0.375) / (count + 0.25))
    return scores.T.reshape(halves.shape)
