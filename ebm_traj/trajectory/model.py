"""`TrajectoryModel`: the interface of the energy model and of every baseline, and its files."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ebm_traj.core.checkpoint import save_json, save_tensors
from ebm_traj.core.objectives import Objective
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import Coordinates, WindowCodec
from ebm_traj.trajectory.inverse import InverseDynamics
from ebm_traj.trajectory.networks import parameter_count

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "ebm_traj.model"
FORMAT_VERSION = 1
MAX_ROWS = 16_384  # chains sampled at once; bounds memory

Conditioning = Literal["states", "actions"]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What every trajectory model has: its window and the size of its networks."""

    context_frames: int = 4
    """C, frames already seen."""
    window_frames: int = 1
    """W, frames predicted together."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    coordinates: Coordinates = "change"
    """What is predicted: the one-step change, or the state itself (as in the literature)."""
    context_noise: float = 0.02
    """Standard deviation of the noise on the scaled context while training, against drift in rollouts."""

    def __post_init__(self) -> None:
        for name in ("context_frames", "window_frames", "width", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")


class TrajectoryModel(nn.Module):
    """Samples continuations of a context; shapes are (batch, sample, time, dim).

    Subclasses define `objective` and `_sample_window`, and `_window_energy` where they have an energy.
    """

    action_centre: Tensor
    action_half: Tensor

    kind: ClassVar[str]
    has_energy: ClassVar[bool] = False
    config_class: ClassVar[type]

    def __init__(
        self,
        config: Any,
        spec: StateSpec,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        conditioning: Conditioning = "states",
        use_given: bool = False,
    ) -> None:
        """`spec` must hold statistics; `action_low/high` (A,) are the bounds of the action box."""
        super().__init__()
        if not (np.isfinite(action_low).all() and np.isfinite(action_high).all()):
            raise InputError("actions: the action box is not bounded; give the environment finite bounds")
        self.config = config
        self.network_config: NetworkConfig = config.network
        self.spec = spec
        self.conditioning = conditioning
        self.use_given = use_given
        net = self.network_config
        self.codec = WindowCodec(spec, net.context_frames, net.window_frames, net.coordinates, use_given)
        self.action_low = np.asarray(action_low, dtype=np.float32)
        self.action_high = np.asarray(action_high, dtype=np.float32)
        centre, half = (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2
        self.register_buffer("action_centre", torch.from_numpy(centre), persistent=False)
        self.register_buffer("action_half", torch.from_numpy(np.maximum(half, 1e-6)), persistent=False)
        self.card: dict[str, Any] = {}
        """How it was trained: iterations, gradients, seconds, data; printed beside every score."""
        frame = self.codec.predicted_size
        self.inverse = InverseDynamics(self.codec.feature_size, frame, self.action_size, net.width, net.depth)

    @property
    def context_frames(self) -> int:
        """C."""
        return self.network_config.context_frames

    @property
    def window_frames(self) -> int:
        """W."""
        return self.network_config.window_frames

    @property
    def action_size(self) -> int:
        """A."""
        return len(self.action_low)

    @property
    def condition_size(self) -> int:
        """Numbers the networks are conditioned on."""
        actions = self.window_frames * self.action_size if self.conditioning == "actions" else 0
        return self.codec.feature_size + actions

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return self.codec.mean.device

    # --- what a subclass defines ------------------------------------------------------------------------

    def objective(self) -> Objective:
        """The training objective over this model's networks."""
        raise TypeError(f"{type(self).__name__} does not define objective")

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        """Coordinates x (B, W P) of one sampled window for each row."""
        raise TypeError(f"{type(self).__name__} does not define _sample_window")

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """Energy (B,) of windows in coordinates."""
        raise InputError(f"a model of kind '{self.kind}' has no energy")

    # --- the interface --------------------------------------------------------------------------------------

    def condition(self, context: Tensor, actions: Tensor | None = None) -> dict[str, Tensor]:
        """What the networks are conditioned on, from a raw context (B, C, D) and actions (B, W, A)."""
        condition = {"context": self.codec.features(context)}
        if self.conditioning == "actions":
            if actions is None:
                raise InputError("actions: this model is action-conditional and was given none")
            condition["actions"] = self.scale_actions(actions).flatten(1)
        return condition

    def scale_actions(self, actions: Tensor) -> Tensor:
        """Raw actions (..., A) to [-1, 1]."""
        return (actions - self.action_centre) / self.action_half

    def unscale_actions(self, scaled: Tensor) -> Tensor:
        """Scaled actions (..., A) to raw ones inside the action box."""
        return scaled.clamp(-1, 1) * self.action_half + self.action_centre

    @torch.no_grad()
    def sample(
        self,
        context: Tensor,
        horizon: int,
        num_samples: int,
        *,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`num_samples` futures (B, M, H, D) of each context (B, C, D), raw units, window after window.

        Action-conditional models need `actions` (B, 1 or M, H, A). Given dimensions are held.
        Raises InputError on wrong shapes or values that are not finite.
        """
        self._check_context(context)
        if horizon < 1 or num_samples < 1:
            raise InputError(f"sample: horizon {horizon}, {num_samples} samples; accepted are 1 and more")
        batch = len(context)
        context = context.to(self.device, torch.float32)
        if self.conditioning == "actions":
            actions = self._check_actions(actions, batch, horizon, num_samples).to(self.device, torch.float32)
            actions = actions.expand(-1, num_samples, -1, -1).flatten(0, 1)
        else:
            actions = None
        rows = context.repeat_interleave(num_samples, dim=0)
        chunks = []
        for i in range(0, len(rows), MAX_ROWS):
            part = None if actions is None else actions[i : i + MAX_ROWS]
            chunks.append(self._roll(rows[i : i + MAX_ROWS], horizon, part, generator))
        return torch.cat(chunks).view(batch, num_samples, horizon, self.spec.size)

    def _roll(
        self, context: Tensor, horizon: int, actions: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        width = self.window_frames
        windows = math.ceil(horizon / width)
        if actions is not None:  # the last window may reach past the horizon: the last action is held
            held = actions[:, -1:].expand(-1, windows * width - horizon, -1)
            actions = torch.cat([actions, held], dim=1)
        frames = []
        for w in range(windows):
            part = None if actions is None else actions[:, w * width : (w + 1) * width]
            x = self._sample_window(self.condition(context, part), generator)
            new = self.codec.decode(context, x)
            frames.append(new)
            context = torch.cat([context, new], dim=1)[:, -self.context_frames :]
        return torch.cat(frames, dim=1)[:, :horizon]

    def energy(self, window: Tensor, actions: Tensor | None = None) -> Tensor:
        """Energy (B,) of raw windows (B, C + W, D), with the actions (B, W, A) if action-conditional."""
        frames = self.context_frames + self.window_frames
        if window.dim() != 3 or window.shape[1:] != (frames, self.spec.size):
            raise InputError(
                f"window: shape {tuple(window.shape)}; accepted is (batch, {frames}, {self.spec.size})"
            )
        window = window.to(self.device, torch.float32)
        context, future = window[:, : self.context_frames], window[:, self.context_frames :]
        return self._window_energy(self.codec.encode(context, future), self.condition(context, actions))

    def path_energy(self, context: Tensor, futures: Tensor, actions: Tensor | None = None) -> Tensor:
        """Energy (B, M) of whole futures (B, M, H, D): the mean over their windows, one step apart.

        `actions` is (B, M, H, A) for action-conditional models.
        """
        batch, samples, horizon, _ = futures.shape
        past = context.to(futures).unsqueeze(1).expand(-1, samples, -1, -1)
        frames = torch.cat([past, futures], dim=2).flatten(0, 1)
        length = self.context_frames + self.window_frames
        count = horizon - self.window_frames + 1
        if count < 1:
            raise InputError(f"futures: {horizon} frames; the model's window has {self.window_frames}")
        windows = frames.unfold(1, length, 1).transpose(2, 3).flatten(0, 1)
        if actions is not None:
            actions = actions.flatten(0, 1).unfold(1, self.window_frames, 1).transpose(2, 3).flatten(0, 1)
        return self.energy(windows, actions).view(batch, samples, count).mean(-1)

    @torch.no_grad()
    def act(self, context: Tensor, next_frame: Tensor) -> Tensor:
        """Action (B, A), inside the box, that should lead from context (B, C, D) to next_frame (B, D)."""
        context = context.to(self.device, torch.float32)
        following = self._frame_coordinates(context, next_frame.to(self.device, torch.float32)[:, None])
        return self.unscale_actions(
            self.inverse({"context": self.codec.features(context), "next": following})
        )

    def _frame_coordinates(self, context: Tensor, frame: Tensor) -> Tensor:
        """Coordinates (B, P) of the one frame (B, 1, D) after the context, whatever W is."""
        repeated = frame.expand(-1, self.window_frames, -1)
        return self.codec.encode(context, repeated)[:, : self.codec.predicted_size]

    # --- checks -----------------------------------------------------------------------------------------

    def _check_context(self, context: Tensor) -> None:
        expected = (self.context_frames, self.spec.size)
        if context.dim() != 3 or context.shape[1:] != expected:
            raise InputError(
                f"context: shape {tuple(context.shape)}; accepted is (batch, {expected[0]}, {expected[1]})"
            )
        if not torch.isfinite(context).all():
            raise InputError("context: holds NaN or infinite values")

    def _check_actions(self, actions: Tensor | None, batch: int, horizon: int, samples: int) -> Tensor:
        if actions is None:
            raise InputError("actions: this model is action-conditional and was given none")
        wanted = f"({batch}, 1 or {samples}, {horizon}, {self.action_size})"
        if actions.dim() != 4 or actions.shape[1] not in (1, samples):
            raise InputError(f"actions: shape {tuple(actions.shape)}; accepted is {wanted}")
        if (actions.shape[0], *actions.shape[2:]) != (batch, horizon, self.action_size):
            raise InputError(f"actions: shape {tuple(actions.shape)}; accepted is {wanted}")
        if not torch.isfinite(actions).all():
            raise InputError("actions: hold NaN or infinite values")
        return actions

    # --- files ------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write `model.json` and `model.safetensors` into `folder`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_json(
            folder / CONFIG_FILE,
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "kind": self.kind,
                "conditioning": self.conditioning,
                "use_given": self.use_given,
                "config": dataclasses.asdict(self.config),
                "action_low": self.action_low.tolist(),
                "action_high": self.action_high.tolist(),
                "parameters": parameter_count(self),
                "card": self.card,
                "spec": self.spec.to_json(),
            },
        )
        save_tensors(folder / WEIGHTS_FILE, self.state_dict(), {"kind": self.kind})
