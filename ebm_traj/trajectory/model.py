"""`TrajectoryModel`: the interface of the energy model and of every baseline, and its files."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ebm_traj.core.checkpoint import save_json, save_tensors
from ebm_traj.core.energy import Condition
from ebm_traj.core.objectives import Objective
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import WindowCodec
from ebm_traj.trajectory.inputs import (
    last_past_actions,
    require_actions,
    require_context,
    require_frame,
    require_futures,
    require_taken,
    require_tensor,
    require_window,
    required_actions,
)
from ebm_traj.trajectory.inverse import InverseDynamics
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import parameter_count

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "ebm_traj.model"
# 2: rotations among the features, networks with an encoder. 3: a linear path. 4: whitened conditions.
# 5: uniform actions
FORMAT_VERSION = 5
MAX_ROWS = 16_384  # chains sampled at once; bounds memory

Conditioning = Literal["states", "actions", "joint"]


class TrajectoryModel(nn.Module):
    """Samples continuations of a context; shapes are (batch, sample, time, dim).

    Conditioning: "states" predicts frames; "actions" is told the actions and predicts the frames they lead
    to; "joint" predicts both. Coordinates x (B, W * frame_size) hold, frame by frame, the predicted
    dimensions (`WindowCodec`) and, if joint, the scaled action that leads to the frame.

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
        if conditioning not in get_args(Conditioning):
            raise InputError(
                f"conditioning: {conditioning!r}; accepted are {', '.join(get_args(Conditioning))}"
            )
        if not (np.isfinite(action_low).all() and np.isfinite(action_high).all()):
            raise InputError("actions: the action box is not bounded; give the environment finite bounds")
        self.config = config
        self.network_config: NetworkConfig = config.network
        self.spec = spec
        self.conditioning = conditioning
        self.use_given = use_given
        self.action_history = self._history(config.network)
        """K, how many actions before the present the model sees."""
        net = self.network_config
        self.codec = WindowCodec(spec, net.context_frames, net.window_frames, net.coordinates, use_given)
        self.action_low = np.asarray(action_low, dtype=np.float32)
        self.action_high = np.asarray(action_high, dtype=np.float32)
        centre, half = (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2
        self.register_buffer("action_centre", torch.from_numpy(centre), persistent=False)
        self.register_buffer("action_half", torch.from_numpy(np.maximum(half, 1e-6)), persistent=False)
        self.card: dict[str, Any] = {}
        """How it was trained: iterations, gradients, seconds, data; printed beside every score."""
        self.inverse: InverseDynamics | None = None
        if conditioning == "states":  # the others know or sample the actions
            frame = self.codec.predicted_size
            self.inverse = InverseDynamics(
                self.codec.feature_size, frame, self.action_size, net.width, net.depth
            )

    def _history(self, net: NetworkConfig) -> int:
        if self.conditioning == "states":
            if net.action_history:
                raise InputError(
                    f"action history: {net.action_history}; a model of states alone has no actions to go on "
                    "with, accepted is 0 (or make it joint)"
                )
            return 0
        if net.action_history is not None:
            return net.action_history
        return net.context_frames - 1 if self.conditioning == "joint" else 0

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
        told = self.window_frames if self.conditioning == "actions" else 0
        return self.codec.feature_size + (self.action_history + told) * self.action_size

    @property
    def frame_size(self) -> int:
        """Numbers in the coordinates of one frame: the predicted dimensions, and the action if joint."""
        return self.codec.predicted_size + (self.action_size if self.conditioning == "joint" else 0)

    @property
    def target_size(self) -> int:
        """Numbers in the coordinates of a window, W * frame_size."""
        return self.window_frames * self.frame_size

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return self.codec.mean.device

    # --- what a subclass defines ------------------------------------------------------------------------

    def weights_of(self, trained: "TrajectoryModel") -> dict[str, Tensor]:
        """The weights to start from where training goes on from a model of this kind."""
        return trained.state_dict()

    def objective(self) -> Objective:
        """The training objective over this model's networks."""
        raise TypeError(f"{type(self).__name__} does not define objective")

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        """Coordinates x (B, W P) of one sampled window for each row."""
        raise TypeError(f"{type(self).__name__} does not define _sample_window")

    @property
    def follows_actions(self) -> bool:
        """Whether `sample` can be told the actions."""
        return self.conditioning == "actions"

    def _follow_window(
        self, condition: dict[str, Tensor], actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """x (B, n) of a joint model that is told its scaled actions (B, W A)."""
        raise InputError(
            f"actions: this {self.kind} model is joint and draws its own; accepted here are joint energy "
            "models on a mixture of Gaussians, which have a stage for the states alone"
        )

    @property
    def has_mean(self) -> bool:
        """Whether `predict` has a mean in closed form to follow."""
        return False

    def _expected_window(self, condition: dict[str, Tensor], actions: Tensor) -> Tensor:
        """The mean x (B, n) under scaled actions (B, W A); an action-conditional condition holds them too."""
        raise TypeError(f"{type(self).__name__} does not define _expected_window")

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """Energy (B,) of windows in coordinates."""
        raise InputError(f"a model of kind '{self.kind}' has no energy")

    def _begin(self, rows: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What a row keeps for a whole future (say, its member of an ensemble), put into every condition."""
        return {}

    # --- the interface --------------------------------------------------------------------------------------

    def encode(self, context: Tensor, future: Tensor, actions: Tensor | None = None) -> Tensor:
        """Coordinates x (B, W * frame_size) of raw frames (B, W, D), and if joint actions (B, W, A)."""
        x = self.codec.encode(context, future)
        if self.conditioning != "joint":
            return x
        if actions is None:
            raise InputError("actions: this model is one of states and actions and was given no actions")
        frames = x.unflatten(1, (self.window_frames, -1))
        return torch.cat([frames, self.scale_actions(actions)], dim=-1).flatten(1)

    def decode(self, context: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw frames (B, W, D) and, if joint, actions (B, W, A) inside the box, from coordinates."""
        if self.conditioning != "joint":
            return self.codec.decode(context, x), None
        frames = x.unflatten(1, (self.window_frames, -1))
        states, actions = frames.split([self.codec.predicted_size, self.action_size], dim=-1)
        return self.codec.decode(context, states.flatten(1)), self.unscale_actions(actions)

    def condition(
        self, context: Tensor, actions: Tensor | None = None, past_actions: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the networks are conditioned on.

        From a raw context (B, C, D), actions (B, W, A) if told, and past actions (B, K, A) if seen.
        """
        condition = {"context": self.codec.features(context)}
        if self.action_history:
            if past_actions is None:
                raise InputError(
                    f"past_actions: this model sees the last {self.action_history} actions and was given none"
                )
            past = self.scale_actions(past_actions[:, -self.action_history :]).flatten(1)
            condition["context"] = torch.cat([condition["context"], past], dim=-1)
        if self.conditioning == "actions":
            if actions is None:
                raise InputError("actions: this model is action-conditional and was given none")
            condition["actions"] = self.scale_actions(actions).flatten(1)
        return condition

    def told_actions(self, actions: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of the actions (B, C + W - 1 or more, A) of a recorded window, those (B, W, A) to its future frames
        and those (B, K, A) before them that the model sees; None where it is told none."""
        past, width, seen = self.context_frames, self.window_frames, self.action_history
        taken = None if self.conditioning == "states" else actions[:, past - 1 : past - 1 + width]
        return taken, actions[:, past - 1 - seen : past - 1] if seen else None

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
        past_actions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`num_samples` futures (B, M, H, D) of each context (B, C, D), raw units, window after window.

        Action-conditional models need `actions` (B, 1 or M, H, A), joint ones follow them if they are given
        and draw their own if not (see `sample_with_actions`). Models that see past actions
        (`action_history` K > 0) also `past_actions` (B, K or more, A), the last of which led to the last
        frame of the context. Given dimensions are held.
        Raises InputError on wrong shapes or values that are not finite.
        """
        return self._sample(context, horizon, num_samples, actions, past_actions, generator)[0]

    @torch.no_grad()
    def sample_with_actions(
        self,
        context: Tensor,
        horizon: int,
        num_samples: int,
        *,
        past_actions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Futures (B, M, H, D) of a joint model and the actions (B, M, H, A) that lead from frame to frame.

        Raises InputError as `sample` does, and if the model is not a joint one.
        """
        futures, actions = self._sample(context, horizon, num_samples, None, past_actions, generator)
        if actions is None:
            raise InputError(
                f"model: its conditioning is '{self.conditioning}'; only 'joint' samples actions"
            )
        return futures, actions

    def predict(self, context: Tensor, actions: Tensor, *, past_actions: Tensor | None = None) -> Tensor:
        """Futures (B, M, H, D) of contexts (B, C, D) under actions (B, M, H, A), each frame the mean of the
        model's distribution given the frames before: without chance, so that plans can be told apart.

        Deterministic models do so anyway. Where actions require a gradient, they get one. Raises InputError
        for models whose mean has no closed form.
        """
        if self.conditioning == "states":
            raise InputError("predict: the model predicts without actions; accepted are actions and joint")
        if not self.has_mean:
            raise InputError(
                f"predict: the mean of a {self.conditioning} {self.kind} model has no closed form; accepted "
                "are action-conditional fc, and energy models on a mixture of Gaussians"
            )
        require_tensor("actions", actions)
        if actions.dim() != 4:
            raise InputError(
                f"actions: shape {tuple(actions.shape)}; accepted is "
                f"({len(context)}, samples, horizon, {self.action_size})"
            )
        horizon, count = actions.shape[2], actions.shape[1]
        with torch.set_grad_enabled(actions.requires_grad and torch.is_grad_enabled()):
            return self._sample(context, horizon, count, actions, past_actions, None, expected=True)[0]

    def _sample(
        self,
        context: Tensor,
        horizon: int,
        num_samples: int,
        actions: Tensor | None,
        past_actions: Tensor | None,
        generator: torch.Generator | None,
        expected: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        require_context(context, self.context_frames, self.spec.size)
        if not len(context):
            raise InputError("context: a batch of 0; accepted are 1 and more")
        if horizon < 1 or num_samples < 1:
            raise InputError(f"sample: horizon {horizon}, {num_samples} samples; accepted are 1 and more")
        batch = len(context)
        context = context.to(self.device, torch.float32)
        if self.conditioning == "states" and actions is not None:
            raise InputError("actions: given to a model whose conditioning is 'states', which follows none")
        told = self.conditioning == "actions" or (self.conditioning == "joint" and actions is not None)
        if told:
            actions = required_actions(actions, batch, num_samples, horizon, self.action_size)
            actions = actions.to(self.device, torch.float32)
            actions = actions.expand(-1, num_samples, -1, -1).flatten(0, 1)
        else:
            actions = None
        past = None
        if self.action_history:
            past = last_past_actions(past_actions, batch, self.action_history, self.action_size)
            past = past.to(self.device, torch.float32).repeat_interleave(num_samples, dim=0)
        rows = context.repeat_interleave(num_samples, dim=0)
        chunks, taken = [], []
        for i in range(0, len(rows), MAX_ROWS):
            part = None if actions is None else actions[i : i + MAX_ROWS]
            before = None if past is None else past[i : i + MAX_ROWS]
            with self._fast():
                states, acts = self._roll(rows[i : i + MAX_ROWS], horizon, part, before, generator, expected)
            chunks.append(states)
            if acts is not None:
                taken.append(acts)
        futures = torch.cat(chunks).unflatten(0, (batch, num_samples))
        return futures, torch.cat(taken).unflatten(0, (batch, num_samples)) if taken else None

    @property
    def _needs_autograd(self) -> bool:
        """Whether sampling asks autograd for anything."""
        return False

    def _fast(self) -> contextlib.AbstractContextManager[Any]:
        """Operations as small as a plan's cost a tenth less where torch keeps no books for autograd.

        It must keep them where actions are to get a gradient.
        """
        asked = self._needs_autograd or torch.is_grad_enabled()
        possible = self.device.type == "cpu" and not asked
        return torch.inference_mode() if possible else contextlib.nullcontext()

    def _roll(
        self,
        context: Tensor,
        horizon: int,
        actions: Tensor | None,
        past: Tensor | None,
        generator: torch.Generator | None,
        expected: bool,
    ) -> tuple[Tensor, Tensor | None]:
        width = self.window_frames
        windows = math.ceil(horizon / width)
        if actions is not None:  # the last window may reach past the horizon: the last action is held
            held = actions[:, -1:].expand(-1, windows * width - horizon, -1)
            actions = torch.cat([actions, held], dim=1)
        kept = self._begin(len(context), generator)
        frames, taken = [], []
        for w in range(windows):
            part = None if actions is None else actions[:, w * width : (w + 1) * width]
            known = {**self.condition(context, part, past), **kept}
            if expected:
                assert part is not None
                x = self._expected_window(known, self.scale_actions(part).flatten(1))
            elif self.conditioning == "joint" and part is not None:
                x = self._follow_window(known, self.scale_actions(part).flatten(1), generator)
            else:
                x = self._sample_window(known, generator)
            new, acts = self.decode(context, x)
            frames.append(new)
            if acts is not None:
                taken.append(acts)
            context = torch.cat([context, new], dim=1)[:, -self.context_frames :]
            following = part if acts is None else acts
            if past is not None and following is not None:
                past = torch.cat([past, following], dim=1)[:, -self.action_history :]
        states = torch.cat(frames, dim=1)[:, :horizon]
        return states, torch.cat(taken, dim=1)[:, :horizon] if taken else None

    def energy(
        self, window: Tensor, actions: Tensor | None = None, past_actions: Tensor | None = None
    ) -> Tensor:
        """Energy (B,) of raw windows (B, C + W, D), with actions (B, W, A) if conditioned on or joint.

        `past_actions` (B, K or more, A) for models that see them, see `sample`. Where something holds NaN, so
        does the energy. Raises InputError on wrong shapes.
        """
        require_window(window, self.context_frames + self.window_frames, self.spec.size)
        window = window.to(self.device, torch.float32)
        if actions is not None and self.conditioning != "states":
            require_taken(actions, len(window), self.window_frames, self.action_size)
            actions = actions.to(window)
        if past_actions is not None and self.action_history:
            seen = last_past_actions(past_actions, len(window), self.action_history, self.action_size, False)
            past_actions = seen.to(window)
        context, future = window[:, : self.context_frames], window[:, self.context_frames :]
        condition = self.condition(context, actions, past_actions)
        return self._window_energy(self.encode(context, future, actions), condition)

    def path_energy(
        self,
        context: Tensor,
        futures: Tensor,
        actions: Tensor | None = None,
        past_actions: Tensor | None = None,
    ) -> Tensor:
        """Energy (B, M) of whole futures (B, M, H, D): the mean over their windows, one step apart.

        `actions` is (B, M, H, A) for action-conditional and joint models, `past_actions` (B, K, A) for models
        that see them. Where futures hold NaN, so does their energy. Raises InputError on wrong shapes.
        """
        require_context(context, self.context_frames, self.spec.size)
        require_futures(futures, len(context), self.spec.size)
        if actions is None and self.conditioning != "states":
            raise InputError(
                f"actions: this model's conditioning is '{self.conditioning}'; it was given none"
            )
        batch, samples, horizon, _ = futures.shape
        futures = futures.to(self.device, torch.float32)
        if actions is not None:
            require_actions(actions, batch, samples, horizon, self.action_size)
            actions = actions.to(futures).expand(-1, samples, -1, -1)
        past = context.to(futures).unsqueeze(1).expand(-1, samples, -1, -1)
        frames = torch.cat([past, futures], dim=2).flatten(0, 1)
        width, history = self.window_frames, self.action_history
        count = horizon - width + 1
        if count < 1:
            raise InputError(f"futures: {horizon} frames; the model's window has {width}")
        windows = frames.unfold(1, self.context_frames + width, 1).transpose(2, 3).flatten(0, 1)
        seen = None
        if actions is not None and history:
            past_actions = last_past_actions(past_actions, batch, history, self.action_size)
            before = past_actions.to(actions).unsqueeze(1).expand(-1, samples, -1, -1)
            taken = torch.cat([before, actions], dim=2).flatten(0, 1)[:, : history + horizon - width]
            seen = taken.unfold(1, history, 1).transpose(2, 3).flatten(0, 1)
        if actions is not None:
            actions = actions.flatten(0, 1).unfold(1, width, 1).transpose(2, 3).flatten(0, 1)
        return self.energy(windows, actions, seen).view(batch, samples, count).mean(-1)

    @property
    def can_act(self) -> bool:
        """Whether there are inverse dynamics, and nothing says that they were not trained."""
        return self.inverse is not None and self.card.get("inverse_iterations") != 0

    @torch.no_grad()
    def act(self, context: Tensor, next_frame: Tensor) -> Tensor:
        """Action (B, A), inside the box, that should lead from context (B, C, D) to next_frame (B, D).

        Raises InputError for models that know or sample actions themselves or were trained without inverse
        dynamics, and on wrong shapes.
        """
        if self.inverse is None:
            raise InputError(
                f"model: its conditioning is '{self.conditioning}'; only 'states' has inverse dynamics"
            )
        require_context(context, self.context_frames, self.spec.size)
        require_frame("next_frame", next_frame, len(context), self.spec.size)
        if not self.can_act:
            raise InputError(
                "model: trained with inverse iterations 0, it does not know which action leads where"
            )
        context = context.to(self.device, torch.float32)
        following = self._frame_coordinates(context, next_frame.to(self.device, torch.float32)[:, None])
        return self.unscale_actions(
            self.inverse({"context": self.codec.features(context), "next": following})
        )

    def _frame_coordinates(self, context: Tensor, frame: Tensor) -> Tensor:
        """Coordinates (B, P) of the one frame (B, 1, D) after the context, whatever W is."""
        repeated = frame.expand(-1, self.window_frames, -1)
        return self.codec.encode(context, repeated)[:, : self.codec.predicted_size]

    # --- files ------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write `model.json` and `model.safetensors` into `folder`, each whole or not at all.

        `half` rounds the weights to 16 bits, for models to be shipped; they are loaded as 32 bits again.
        """
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
        weights = {name: value.half() if half else value for name, value in self.state_dict().items()}
        save_tensors(folder / WEIGHTS_FILE, weights, {"kind": self.kind})


def join(condition: Condition) -> Tensor:
    """What the networks are conditioned on in one tensor: context features (B, F), actions if told."""
    parts = [condition["context"], *([condition["actions"]] if "actions" in condition else [])]
    return torch.cat(parts, dim=-1)
