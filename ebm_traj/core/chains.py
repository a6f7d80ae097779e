"""Langevin on an energy and its condition: the one entry that chooses the backend, see `core.backends`."""

import warnings

import torch
from torch import Tensor

from ebm_traj.core.backends import backend, is_recording
from ebm_traj.core.energy import Condition, Energy
from ebm_traj.core.graphs import graphed_langevin
from ebm_traj.core.langevin import Chain, LangevinConfig, choose_backend, langevin

_graphs_work = True  # until a capture has failed


def run_langevin(
    energy: Energy,
    condition: Condition,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Chain:
    """`langevin` on `energy.bind(condition)` from `start` (B, ...); on a GPU by graph replay where one launch
    is not to be had. If a capture fails, that is said once and chains are walked without.
    """
    global _graphs_work
    asked = backend()
    alone = not is_recording()
    if asked == "graph" and alone:
        return graphed_langevin(energy, condition, start, config, scale=scale, generator=generator)
    bound = energy.bind(condition)
    replay = alone and asked == "auto" and start.is_cuda and _graphs_work and config.steps > 0
    if replay and choose_backend(bound, start, config, record=False) != "triton":
        try:
            return graphed_langevin(energy, condition, start, config, scale=scale, generator=generator)
        except RuntimeError as error:  # of CUDA or of an operation that cannot be captured
            _graphs_work = False
            warnings.warn(f"chains are walked without CUDA graphs: {error}", stacklevel=2)
    return langevin(bound, start, config, scale=scale, generator=generator)
