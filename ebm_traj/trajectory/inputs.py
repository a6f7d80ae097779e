"""Checks of what callers hand a trajectory model; each raises InputError with what is accepted."""

from typing import Any

import torch
from torch import Tensor

from ebm_traj.errors import InputError


def require_tensor(name: str, value: Any) -> None:
    """A tensor, of a floating type."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name}: is a {type(value).__name__}; accepted is a torch.Tensor, as torch.as_tensor makes one"
        )
    if not value.is_floating_point():
        raise InputError(f"{name}: of {value.dtype}; accepted are torch.float32 and other floating types")


def require_context(context: Tensor, frames: int, size: int) -> None:
    """A context is (batch, frames, size), and finite."""
    require_tensor("context", context)
    if context.dim() != 3 or context.shape[1:] != (frames, size):
        raise InputError(f"context: shape {tuple(context.shape)}; accepted is (batch, {frames}, {size})")
    if not torch.isfinite(context).all():
        raise InputError("context: holds NaN or infinite values")


def require_window(window: Tensor, frames: int, size: int) -> None:
    """A window is (batch, frames, size)."""
    require_tensor("window", window)
    if window.dim() != 3 or window.shape[1:] != (frames, size):
        raise InputError(f"window: shape {tuple(window.shape)}; accepted is (batch, {frames}, {size})")


def require_frame(name: str, frame: Tensor, batch: int, size: int) -> None:
    """A frame is (batch, size)."""
    require_tensor(name, frame)
    if tuple(frame.shape) != (batch, size):
        raise InputError(f"{name}: shape {tuple(frame.shape)}; accepted is ({batch}, {size})")


def require_taken(actions: Tensor, batch: int, width: int, size: int) -> None:
    """The actions of a window are (batch, width, size)."""
    require_tensor("actions", actions)
    if tuple(actions.shape) != (batch, width, size):
        raise InputError(f"actions: shape {tuple(actions.shape)}; accepted is {(batch, width, size)}")


def require_futures(futures: Tensor, batch: int, size: int) -> None:
    """Futures are (batch, samples, horizon, size)."""
    require_tensor("futures", futures)
    if futures.dim() != 4 or (futures.shape[0], futures.shape[3]) != (batch, size):
        raise InputError(
            f"futures: shape {tuple(futures.shape)}; accepted is ({batch}, samples, horizon, {size})"
        )


def last_past_actions(
    past_actions: Tensor | None, batch: int, history: int, size: int, finite: bool = True
) -> Tensor:
    """The last `history` of past actions (batch, `history` or more, size), finite if that is asked for."""
    wanted = f"({batch}, {history}, {size})"
    if past_actions is None:
        raise InputError(f"past_actions: this model sees past actions, {wanted}, and was given none")
    require_tensor("past_actions", past_actions)
    shape = tuple(past_actions.shape)
    fits = len(shape) == 3 and shape[0] == batch and shape[2] == size
    if not fits or shape[1] < history:
        raise InputError(f"past_actions: shape {shape}; accepted is {wanted}")
    if finite and not torch.isfinite(past_actions[:, -history:]).all():
        raise InputError("past_actions: hold NaN or infinite values")
    return past_actions[:, -history:]


def required_actions(actions: Tensor | None, batch: int, samples: int, horizon: int, size: int) -> Tensor:
    """Actions to come, (batch, 1 or samples, horizon, size), which must be given and finite."""
    if actions is None:
        raise InputError("actions: this model is action-conditional and was given none")
    require_actions(actions, batch, samples, horizon, size)
    if not torch.isfinite(actions).all():
        raise InputError("actions: hold NaN or infinite values")
    return actions


def require_actions(actions: Tensor, batch: int, samples: int, horizon: int, size: int) -> None:
    """Actions are (batch, 1 or samples, horizon, size)."""
    require_tensor("actions", actions)
    wanted = f"({batch}, 1 or {samples}, {horizon}, {size})"
    if actions.dim() != 4 or actions.shape[1] not in (1, samples):
        raise InputError(f"actions: shape {tuple(actions.shape)}; accepted is {wanted}")
    if (actions.shape[0], *actions.shape[2:]) != (batch, horizon, size):
        raise InputError(f"actions: shape {tuple(actions.shape)}; accepted is {wanted}")
