"""`TrainedPolicy`: a network that turns the object to its goal, made by `scripts/train_policy.py`.

Weights and card lie in one safetensors file. It is evaluated by numpy in float64: a batch of 128 takes a few
milliseconds, and a row's action, rounded to float32, does not depend on the batch that it stands in.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from threadpoolctl import ThreadpoolController

from ebm_traj.atomic import replacing
from ebm_traj.envs.expert import task_of
from ebm_traj.envs.hand_features import FEATURES, hand_features
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.errors import InputError

Array = NDArray[np.float64]

SHIPPED = Path(__file__).parent / "policies"  # <object>-<target_rotation>.safetensors, older ones -<method>
FORMAT = "ebm_traj hand policy 1"


@dataclasses.dataclass(frozen=True)
class TrainedSettings:
    """Which network acts."""

    file: str = ""
    """A safetensors file of scripts/train_policy.py, or a shipped one's name, such as block-z-ppo; empty: the
    one shipped for the environment's task."""


class PolicyNetwork:
    """A multilayer perceptron with ELU units from features (N, F) to changes of the action (N, A).

    Args:
        weights: `mean`, `std` (F,) of the features, for each layer `weight.i` (out, in) and `bias.i` (out,),
            and `change` (1,), the largest change of an action in a step, which an output of 1 stands for.
        card: how it was made and how well it does; `object` and `target_rotation` name its task, `features`
            the form of its features (`matrix` where it is not said), `squash` how its outputs are bounded:
            `clip` (where it is not said) or `tanh`.
    """

    def __init__(self, weights: dict[str, NDArray[np.floating]], card: dict[str, Any]):
        self.card = card
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        # Threads of BLAS would spin on while the simulator needs the cores: 1.45 times as slow (measured).
        self._blas = ThreadpoolController()
        self.form: str = card.get("features", "matrix")
        self._tanh = card.get("squash") == "tanh"
        self._layers = sum(name.startswith("weight.") for name in weights)

    def __call__(self, features: Array) -> Array:
        """Changes (N, A) for features (N, F)."""
        with self._blas.limit(limits=1, user_api="blas"):
            return self._forward(features)

    def _forward(self, features: Array) -> Array:
        get = self.weights
        hidden = (features - get["mean"]) / get["std"]
        for i in range(self._layers):
            hidden = hidden @ get[f"weight.{i}"].T + get[f"bias.{i}"]
            if i < self._layers - 1:
                hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0.0)))
        return get["change"] * (np.tanh(hidden) if self._tanh else np.clip(hidden, -1.0, 1.0))

    def save(self, path: Path) -> None:
        """Write weights (float32) and card to a safetensors file, whole or not at all."""
        weights = {name: value.astype(np.float32) for name, value in self.weights.items()}
        with replacing(path) as temporary:
            save_file(weights, temporary, metadata={"format": FORMAT, "card": json.dumps(self.card)})

    @classmethod
    def load(cls, path: Path) -> "PolicyNetwork":
        """The network of a file. InputError if it is missing, damaged or another kind of file."""
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; needed is a policy of scripts/train_policy.py, or a name of: "
                f"{', '.join(shipped_policies())}"
            )
        try:
            with safetensors.safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
            weights = load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from None
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path}: a safetensors file, but not a policy of scripts/train_policy.py")
        network = cls(weights, json.loads(metadata["card"]))
        if network.form not in FEATURES:
            raise InputError(
                f"{path}: features of the form '{network.form}'; accepted: {', '.join(FEATURES)}"
            )
        if weights["mean"].shape != (count := FEATURES[network.form],):
            raise InputError(
                f"{path}: made for {weights['mean'].size} features of the form '{network.form}'; "
                f"this version computes {count}"
            )
        return network


class TrainedPolicy:
    """Acts by a network of `scripts/train_policy.py`; without memory and without draws of its own.

    Args:
        action_low, action_high: the action box (20,).
        settings: which network.
        env_id, env_kwargs: the environment it acts in, one of `ebm_traj/Hand*`.

    Raises:
        InputError: for an environment or a task that the network was not trained for.
    """

    goal_conditioned = True
    needs_simulator = False
    markov = True
    Settings: ClassVar = TrainedSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: TrainedSettings | None = None,
        *,
        env_id: str,
        env_kwargs: dict[str, Any],
    ) -> None:
        task = task_of(env_id, env_kwargs, "trained")
        named = (settings or TrainedSettings()).file
        path = shipped_policies().get(named, Path(named)) if named else shipped_policy(task)
        self.network = PolicyNetwork.load(path)
        self.sha256 = digest(path)
        for field in ("object", "target_rotation"):
            made_for, found = self.network.card.get(field), getattr(task, field)
            if made_for != found:
                raise InputError(f"{path}: trained for {field} '{made_for}'; the environment has '{found}'")
        self._low, self._high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)

    @staticmethod
    def recorded(settings: TrainedSettings, sha256: str) -> TrainedSettings:
        """The settings of a recording that was made when another network was the one shipped for its task."""
        found = [name for name, path in shipped_policies().items() if digest(path) == sha256]
        return TrainedSettings(found[0]) if found and not settings.file else settings

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Nothing to begin."""

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, 20) for a batch of N observations and the actions (N, 20) before, NaN for none."""
        change = self.network(hand_features(observations, previous_actions, self.network.form))
        actions = np.nan_to_num(np.asarray(previous_actions, np.float64)) + change
        return np.clip(actions, self._low, self._high).astype(np.float32)


def shipped_policies() -> dict[str, Path]:
    """The files shipped, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def shipped_policy(task: HandTask) -> Path:
    """The file shipped for a task. InputError if there is none."""
    name, known = f"{task.object}-{task.target_rotation}", shipped_policies()
    if name not in known:
        raise InputError(
            f"policy 'trained': no network shipped for '{name}' (object-target_rotation); there are: "
            f"{', '.join(known) or 'none'}; scripts/train_policy.py makes one, --trained.file names it"
        )
    return known[name]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
