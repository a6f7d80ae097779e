"""Between raw states and what the networks see: scaled contexts and scaled changes."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.quaternions import MATRIX, TURN, matrix, turn_features

Coordinates = Literal["change", "state"]


class WindowCodec(nn.Module):
    """Features of a context (B, C, D), and the coordinates x (B, W P) of the W frames that follow.

    P dimensions are predicted: those of the spec that ever change; all others stay as they were. In
    `change` coordinates a frame is its difference from the frame before in units of the one-step change of
    the training data, in `state` coordinates (the literature's) its z-score. q and -q are the same
    rotation: inside, each quaternion has the sign that makes w >= 0 in the last frame of the context;
    decoded frames go back to the sign of the given context and to unit norm.

    Decoded frames stay within the range of the training data, in their values and in their change from frame
    to frame (where the spec knows it): a joint has limits, and one wild sample would otherwise be the context
    of wilder ones.

    In `change` coordinates the features also hold, of the last frame, each predicted quaternion as a rotation
    matrix and, where a given quaternion is an input (a goal), the rotation from the one to the other.
    """

    seen: Tensor
    last_mean: Tensor
    last_std: Tensor
    predicted: Tensor
    mean: Tensor
    std: Tensor
    change_std: Tensor
    low: Tensor
    high: Tensor
    farthest: Tensor
    quaternions: Tensor
    goals: Tensor

    def __init__(
        self,
        spec: StateSpec,
        context_frames: int,
        window_frames: int,
        coordinates: Coordinates = "change",
        use_given: bool = False,
    ) -> None:
        super().__init__()
        if spec.mean is None or spec.std is None or spec.change_std is None:
            raise InputError("state spec: has no statistics of a training split yet")
        if not len(spec.moving):
            raise InputError("state spec: no predicted dimension ever changes in the training split")
        self.context_frames = context_frames
        self.window_frames = window_frames
        self.coordinates = coordinates
        self.quaternion_count = len(spec.quaternions)

        def buffer(name: str, values: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.as_tensor(values).to(dtype), persistent=False)

        # the last frame is seen whole (what never changes may differ between episodes), its past only as
        # changes of what moves
        still = np.setdiff1d(spec.predicted, spec.moving)
        seen = np.concatenate([spec.moving, still, *([spec.given] if use_given else [])])
        buffer("seen", seen, torch.long)
        buffer("last_mean", spec.mean[seen])
        buffer("last_std", spec.std[seen])
        buffer("predicted", spec.moving, torch.long)
        buffer("mean", spec.mean[spec.moving])
        buffer("std", spec.std[spec.moving])
        buffer("change_std", spec.change_std[spec.moving])
        wide = np.full(spec.size, np.inf)
        free = np.isin(np.arange(spec.size), spec.quaternion_dims)  # these have their norm
        buffer("low", np.where(free, -wide, -wide if spec.low is None else spec.low)[spec.moving])
        buffer("high", np.where(free, wide, wide if spec.high is None else spec.high)[spec.moving])
        limit = wide if spec.change_limit is None else spec.change_limit
        buffer("farthest", limit[spec.moving])
        buffer("quaternions", np.array(spec.quaternions, dtype=np.int64).reshape(-1, 4), torch.long)

        goals = spec.given_quaternions if use_given else []
        buffer("goals", np.array(goals, dtype=np.int64).reshape(-1, 4), torch.long)

        self.predicted_size = len(spec.moving)
        rotations = len(spec.quaternions) * (MATRIX + TURN * len(goals)) if coordinates == "change" else 0
        self.feature_size = len(seen) + rotations + (context_frames - 1) * self.predicted_size
        self.target_size = window_frames * self.predicted_size

    def features(self, context: Tensor) -> Tensor:
        """(B, C, D) raw to (B, F): the last frame as z-scores, its rotations, the C - 1 changes before."""
        context = context * self._signs(context)
        last = (context[:, -1, self.seen] - self.last_mean) / self.last_std
        changes = context[:, :, self.predicted].diff(dim=1) / self.change_std
        return torch.cat([last, *self._rotations(context[:, -1]), changes.flatten(1)], dim=-1)

    def _rotations(self, frame: Tensor) -> list[Tensor]:
        """Of a raw frame (B, D): each quaternion as a matrix, and how it is turned against each goal."""
        if self.coordinates != "change":
            return []
        found = []
        for dims in self.quaternions:
            found.append(matrix(frame[:, dims]))
            found += [turn_features(frame[:, dims], frame[:, goal]) for goal in self.goals]
        return found

    def encode(self, context: Tensor, frames: Tensor) -> Tensor:
        """Coordinates x (B, W P) of the raw frames (B, W, D) that follow the context (B, C, D)."""
        signs = self._signs(context)
        frames = (frames * signs)[..., self.predicted]
        if self.coordinates == "state":
            return ((frames - self.mean) / self.std).flatten(1)
        last = (context[:, -1:] * signs)[..., self.predicted]
        return (torch.cat([last, frames], dim=1).diff(dim=1) / self.change_std).flatten(1)

    def decode(self, context: Tensor, x: Tensor) -> Tensor:
        """Raw frames (B, W, D) from coordinates x (B, W P); the rest stays as in the last frame."""
        signs = self._signs(context)
        last = context[:, -1:] * signs
        x = x.view(len(x), self.window_frames, self.predicted_size)
        now = last[..., self.predicted]
        if self.coordinates == "state":
            changes = torch.cat([now, x * self.std + self.mean], dim=1).diff(dim=1)
        else:
            changes = x * self.change_std
        values = now + changes.clamp(-self.farthest, self.farthest).cumsum(dim=1)
        values = values.clamp(self.low, self.high)
        frames = last.repeat(1, self.window_frames, 1)
        frames[..., self.predicted] = values
        for dims in self.quaternions:
            q = frames[..., dims]
            frames[..., dims] = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return frames * signs

    def stay(self, features: Tensor) -> Tensor:
        """Coordinates x (B, W P) of frames that repeat the last one, given the features of the context."""
        if self.coordinates == "change":
            return features.new_zeros(len(features), self.target_size)
        return features[:, : self.predicted_size].repeat(1, self.window_frames)

    def _signs(self, context: Tensor) -> Tensor:
        """(B, 1, D) of +-1: what each quaternion is multiplied with so that the last w is >= 0."""
        signs = torch.ones_like(context[:, -1:])
        for dims in self.quaternions:
            w = context[:, -1:, dims[:1]]
            signs[..., dims] = torch.where(w < 0, -1.0, 1.0).expand(-1, -1, 4)
        return signs
