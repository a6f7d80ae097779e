"""Between raw states and what the networks see: scaled contexts and scaled changes."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.quaternions import (
    DIRECTION,
    LONGEST_TURN,
    MATRIX,
    QUARTIC,
    TURN,
    direction_features,
    matrix,
    quartic_features,
    turn_between,
    turn_features,
    turned,
)

Coordinates = Literal["turn", "change", "state"]
TURN_SIZE = 3


class WindowCodec(nn.Module):
    """Features of a context (B, C, D), and the coordinates x (B, W P) of the W frames that follow.

    P numbers are predicted, of those dimensions of the spec that ever change; all others stay as they were.
    In `change` coordinates a frame is its difference from the frame before in units of the one-step change
    of the training data, in `state` coordinates (the literature's) its z-score. In `turn` coordinates it is
    the difference, but of a quaternion the turn from the frame before, three numbers in the world's axes
    (`turn_between`): no direction in them is without a meaning, and a turn is the same wherever an object is
    turned to. A quaternion that changes in some of its numbers only (about one axis, say) stays as numbers.
    q and -q are the same rotation: inside, each quaternion has the sign that makes w >= 0 in the last frame
    of the context; decoded frames go back to the sign of the given context and to unit norm.

    Decoded frames stay within the range of the training data, in their values and in their change from frame
    to frame (where the spec knows it): a joint has limits, and one wild sample would otherwise be the context
    of wilder ones.

    But in `state` coordinates the features also hold, of the last frame, each predicted quaternion as a
    rotation matrix and, where a given quaternion is an input (a goal), the rotation from the one to the
    other. In `turn` coordinates also the matrix's products of fourth order, which a cube's own rotations
    leave alone (`quartic_features`), and direction and angle of the way to the goal.
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
    turn_unit: Tensor
    turn_limit: Tensor

    def __init__(
        self,
        spec: StateSpec,
        context_frames: int,
        window_frames: int,
        coordinates: Coordinates = "turn",
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

        def buffer(name: str, values: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.as_tensor(values).to(dtype), persistent=False)

        # the last frame is seen whole (what never changes may differ between episodes), its past only as
        # changes of what moves
        still = np.setdiff1d(spec.predicted, spec.moving)
        seen = np.concatenate([spec.moving, still, *([spec.given] if use_given else [])])
        buffer("seen", seen, torch.long)
        buffer("last_mean", spec.mean[seen])
        buffer("last_std", spec.std[seen])
        whole = [dims for dims in spec.quaternions if np.isin(dims, spec.moving).all()]
        turning = np.array(whole if coordinates == "turn" else [], dtype=np.int64).reshape(-1, 4)
        numbers = np.setdiff1d(spec.moving, turning)  # dimensions predicted as they are
        buffer("predicted", numbers, torch.long)
        buffer("mean", spec.mean[numbers])
        buffer("std", spec.std[numbers])
        buffer("change_std", spec.change_std[numbers])
        self.turning = [four(dims) for dims in turning]
        # a small turn by an angle changes the quaternion by half of it
        buffer("turn_unit", 2 * np.sqrt((spec.change_std[turning] ** 2).sum(1, keepdims=True) / TURN_SIZE))
        wide = np.full(spec.size, np.inf)
        free = np.isin(np.arange(spec.size), spec.quaternion_dims)  # these have their norm
        buffer("low", np.where(free, -wide, -wide if spec.low is None else spec.low)[numbers])
        buffer("high", np.where(free, wide, wide if spec.high is None else spec.high)[numbers])
        limit = wide if spec.change_limit is None else spec.change_limit
        buffer("farthest", limit[numbers])
        chord = np.minimum(np.linalg.norm(limit[turning], axis=1, keepdims=True), np.sqrt(2))
        buffer("turn_limit", np.minimum(2 * chord * np.sqrt(1 - chord**2 / 4), LONGEST_TURN))
        self.quaternions = [four(dims) for dims in spec.quaternions]

        goals = spec.given_quaternions if use_given else []
        self.goals = [four(dims) for dims in goals]

        self.predicted_size = len(numbers) + TURN_SIZE * len(turning)
        self.coordinate_names = [(spec.names[i], spec.kinds[i]) for i in numbers] + [
            (f"{spec.names[dims[0]].removesuffix('_qw')}_turn_{axis}", "quaternion")
            for dims in turning
            for axis in "xyz"
        ]
        """Name and kind of each of the P numbers of a frame."""
        each = {
            "turn": MATRIX + QUARTIC + (TURN + DIRECTION) * len(goals),
            "change": MATRIX + TURN * len(goals),
            "state": 0,
        }[coordinates]
        rotations = len(spec.quaternions) * each
        self.feature_size = len(seen) + rotations + (context_frames - 1) * self.predicted_size
        self.target_size = window_frames * self.predicted_size

    def features(self, context: Tensor) -> Tensor:
        """(B, C, D) raw to (B, F): the last frame as z-scores, its rotations, the C - 1 changes before."""
        context = context * self._signs(context)
        last = (context[:, -1, self.seen] - self.last_mean) / self.last_std
        changes = self._changes(context).flatten(1)
        return torch.cat([last, *self._rotations(context[:, -1]), changes], dim=-1)

    def _changes(self, frames: Tensor) -> Tensor:
        """From frame to frame of aligned raw frames (B, L, D): (B, L - 1, P) in units of the change."""
        changes = frames[..., self.predicted].diff(dim=1) / self.change_std
        if not self.turning:
            return changes
        turns = [
            turn_between(frames[:, :-1, dims], frames[:, 1:, dims]) / unit
            for dims, unit in zip(self.turning, self.turn_unit, strict=True)
        ]
        return torch.cat([changes, *turns], dim=-1)

    def _rotations(self, frame: Tensor) -> list[Tensor]:
        """Of a raw frame (B, D): each quaternion as a matrix, and how it is turned against each goal."""
        if self.coordinates == "state":
            return []
        found = []
        for dims in self.quaternions:
            found.append(matrix(frame[:, dims]))
            to_goals = [turn_features(frame[:, dims], frame[:, goal]) for goal in self.goals]
            if self.coordinates == "turn":
                found.append(quartic_features(found[-1]))
                to_goals += [direction_features(to_goal) for to_goal in to_goals]
            found += to_goals
        return found

    def encode(self, context: Tensor, frames: Tensor) -> Tensor:
        """Coordinates x (B, W P) of the raw frames (B, W, D) that follow the context (B, C, D)."""
        signs = self._signs(context)
        frames = frames * signs
        if self.coordinates == "state":
            return ((frames[..., self.predicted] - self.mean) / self.std).flatten(1)
        return self._changes(torch.cat([context[:, -1:] * signs, frames], dim=1)).flatten(1)

    def decode(self, context: Tensor, x: Tensor) -> Tensor:
        """Raw frames (B, W, D) from coordinates x (B, W P); the rest stays as in the last frame."""
        signs = self._signs(context)
        last = context[:, -1:] * signs
        x = x.view(len(x), self.window_frames, self.predicted_size)
        now = last[..., self.predicted]
        x, turns = x[..., : len(self.predicted)], x[..., len(self.predicted) :]
        if self.coordinates == "state":
            changes = torch.cat([now, x * self.std + self.mean], dim=1).diff(dim=1)
        else:
            changes = x * self.change_std
        values = now + changes.clamp(-self.farthest, self.farthest).cumsum(dim=1)
        values = values.clamp(self.low, self.high)
        frames = last.repeat(1, self.window_frames, 1)
        frames[..., self.predicted] = values
        for k, (dims, unit, limit) in enumerate(
            zip(self.turning, self.turn_unit, self.turn_limit, strict=True)
        ):
            q = last[:, 0, dims]
            for t in range(self.window_frames):
                q = turned(q, turns[:, t, TURN_SIZE * k : TURN_SIZE * (k + 1)] * unit, limit)
                frames[:, t, dims] = q
        for dims in self.quaternions:
            q = frames[..., dims].clone()  # a gradient must not see what is written below
            frames[..., dims] = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return frames * signs

    def stay(self, features: Tensor) -> Tensor:
        """Coordinates x (B, W P) of frames that repeat the last one, given the features of the context."""
        if self.coordinates != "state":
            return features.new_zeros(len(features), self.target_size)
        return features[:, : self.predicted_size].repeat(1, self.window_frames)

    def _signs(self, context: Tensor) -> Tensor:
        """(B, 1, D) of +-1: what each quaternion is multiplied with so that the last w is >= 0."""
        signs = torch.ones_like(context[:, -1:])
        for dims in self.quaternions:
            w = context[:, -1:, dims.start : dims.start + 1]
            signs[..., dims] = torch.where(w < 0, -1.0, 1.0)
        return signs


def four(dims: np.ndarray) -> slice:
    """The four neighbouring dimensions of a quaternion as a slice, which copies nothing."""
    return slice(int(dims[0]), int(dims[0]) + 4)
