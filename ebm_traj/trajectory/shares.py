"""A rank's share of the rows that the settings of a run name: these are of all devices together."""

import dataclasses
from typing import Any

from ebm_traj.core.distributed import even_share, share_of
from ebm_traj.core.objectives import Objective
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.model import TrajectoryModel


def share_config(config: Any, rank: int, world: int) -> Any:
    """The settings of a model with the batch sizes and the replay buffer of one rank.

    Batch sizes must divide, so that the mean of the ranks' gradients is that of all rows; slots of a replay
    buffer are dealt out. The share of a batch that is replayed is rounded on each rank: 179 of 256 rows on
    one device are 2 x 90 on two.

    Raises InputError, naming the batch, if it does not divide.
    """
    if world == 1:
        return config
    if not isinstance(config, EBMConfig):
        return dataclasses.replace(config, batch_size=even_share("batch size", config.batch_size, world))
    changes: dict[str, Any] = {}
    if config.training in ("contrastive", "ranking") and config.proposal != "noise":
        changes["likelihood_batch"] = even_share("likelihood batch", config.likelihood_batch, world)
    losses = ("denoising", "contrastive") if config.training == "combined" else (config.training,)
    for name in losses:
        loss = getattr(config, name)
        share = {"batch_size": even_share(f"{name} batch size", loss.batch_size, world)}
        if name == "contrastive":
            share["buffer_size"] = share_of(loss.buffer_size, rank, world)
        try:
            changes[name] = dataclasses.replace(loss, **share)
        except InputError as error:
            raise InputError(f"{name} on {world} devices, {share['batch_size']} rows each: {error}") from None
    return dataclasses.replace(config, **changes)


def share_objective(model: TrajectoryModel, rank: int, world: int) -> Objective:
    """The training objective of `model` for one rank's share of the rows."""
    whole = model.config
    model.config = share_config(whole, rank, world)
    try:
        return model.objective()
    finally:
        model.config = whole
