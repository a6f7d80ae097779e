"""Behaviour that users bring: a function of theirs, or a model of Stable-Baselines3."""

import dataclasses
import hashlib
import importlib
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError

ALGORITHMS = ("PPO", "SAC", "TD3", "DDPG", "A2C")  # those of Stable-Baselines3 with continuous actions


def named_policy(name: str) -> tuple[str, Any] | None:
    """Name and settings of the policy that `module:function` or `model.zip` stands for; None for other names.

    Raises InputError if the zip file is missing.
    """
    if name.endswith(".zip"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"policy {name}: no such file; needed is a model saved by Stable-Baselines3")
        return "sb3", SB3Settings(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    if ":" in name:
        return "function", FunctionSettings(name)
    return None


@dataclasses.dataclass(frozen=True)
class FunctionSettings:
    """Which function acts."""

    target: str = ""
    """`module:function`; the module is looked for in the current folder, too."""


class FunctionPolicy:
    """Acts by a function of the user's: actions (N, A) = function(observations).

    It is given a batch of N observations, an array (N, n) or a dict of such, and must return an action for
    each; what lies outside the action box is clipped to it. An object with `reset(seeds, steps)` and
    `act(observations, previous_actions, simulator_states)`, or a class that makes one when called without
    arguments, is taken as a `Policy` instead.

    Raises InputError if there is no such function, and if what it returns has another shape or is not finite.
    """

    goal_conditioned = True  # it may look at the goal, so models are told the goal
    needs_simulator = False
    markov = True
    Settings: ClassVar = FunctionSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: FunctionSettings,
        *,
        env_id: str,
        env_kwargs: dict[str, Any],
    ) -> None:
        self.low, self.high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        self.target = settings.target
        found = find_function(settings.target)
        if isinstance(found, type):
            found = found()
        self._policy = found if hasattr(found, "act") and hasattr(found, "reset") else None
        self._function: Callable[[Any], Any] = found

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Hand on to the user's object, if it is one."""
        self._rows = len(seeds)
        if self._policy is not None:
            self._policy.reset(seeds, steps)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A); see `Policy`."""
        if self._policy is not None:
            found = self._policy.act(observations, previous_actions, simulator_states)
        else:
            found = self._function(observations)
        return checked_actions(f"policy {self.target}", found, self._rows, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class SB3Settings:
    """Which model acts."""

    file: str = ""
    """A zip file saved by Stable-Baselines3. Loading it runs code from it: trust where it comes from."""
    sha256: str = ""
    """Of the file; another one of the same name is not taken for it."""


class SB3Policy:
    """Acts by a Stable-Baselines3 model, without its exploration noise.

    Raises InputError if the package is missing, if the file is damaged, changed or none of its models, and if
    its spaces are not those of the environment.
    """

    goal_conditioned = True
    needs_simulator = False
    markov = True
    Settings: ClassVar = SB3Settings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: SB3Settings,
        *,
        env_id: str,
        env_kwargs: dict[str, Any],
    ) -> None:
        self.low, self.high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        self.file = settings.file
        self._model = load_sb3(settings)
        env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
        spaces = env.observation_space, env.action_space
        env.close()
        theirs = self._model.observation_space, self._model.action_space
        for what, wanted, found in zip(("observations", "actions"), theirs, spaces, strict=True):
            if not same_space(wanted, found):
                raise InputError(
                    f"policy {self.file}: made for {what} {wanted}; environment '{env_id}' has {found}"
                )

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Nothing to begin."""
        self._rows = len(seeds)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A); see `Policy`."""
        found, _ = self._model.predict(observations, deterministic=True)
        return checked_actions(f"policy {self.file}", found, self._rows, self.low, self.high)


def find_function(target: str) -> Any:
    """What `module:name` stands for. InputError if there is no such module or name."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise InputError(f"policy '{target}': needed is module:function")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module and not module.startswith(f"{error.name}."):
            raise  # the user's module is there and lacks one of its own imports
        raise InputError(
            f"policy '{target}': no module '{module}', neither installed nor in {folder}"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"policy '{target}': module '{module}' has no '{name}'")
        found = getattr(found, part)
    if not callable(found) and not hasattr(found, "act"):
        raise InputError(f"policy '{target}': is a {type(found).__name__}; needed is a function")
    return found


def checked_actions(
    who: str, found: Any, rows: int, low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Actions (N, A) clipped to the action box; InputError for another shape and for what is not finite."""
    actions, wanted = np.asarray(found), (rows, len(low))
    if actions.shape != wanted or actions.dtype.kind not in "fiu":
        raise InputError(f"{who}: gave {actions.dtype} of shape {actions.shape}; needed are numbers {wanted}")
    if not np.isfinite(actions).all():
        raise InputError(f"{who}: gave actions that are NaN or infinite")
    return np.clip(actions.astype(np.float32), low, high)


def load_sb3(settings: SB3Settings) -> Any:
    """The model of a zip file; see `SB3Policy` for what is refused."""
    path = Path(settings.file)
    try:
        import stable_baselines3
    except ModuleNotFoundError:
        raise InputError(f'policy {path}: needs Stable-Baselines3: pip install "ebm_traj[sb3]"') from None
    if not path.is_file():
        raise InputError(f"policy {path}: no such file; needed is a model saved by Stable-Baselines3")
    if hashlib.sha256(path.read_bytes()).hexdigest() != settings.sha256:
        raise InputError(f"policy {path}: is not the file that the data set was begun with")
    try:
        with zipfile.ZipFile(path) as file:
            kind = json.loads(file.read("data"))["policy_class"]["__module__"].split(".")[1].upper()
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise InputError(f"policy {path}: not a model of Stable-Baselines3 ({error})") from None
    # A2C and DDPG have the policy classes of PPO and TD3.
    likely = {"COMMON": ("PPO", "A2C"), "TD3": ("TD3", "DDPG")}.get(kind, (kind,))
    problem: Exception | None = None
    for name in likely:
        if name in ALGORITHMS:
            try:
                return getattr(stable_baselines3, name).load(path, device="cpu")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = error
    reason = f" ({problem})" if problem else ""
    raise InputError(f"policy {path}: no model of {', '.join(ALGORITHMS)}{reason}")


def same_space(theirs: gymnasium.Space, ours: gymnasium.Space) -> bool:
    """Whether two spaces hold arrays of the same shapes."""
    if isinstance(theirs, gymnasium.spaces.Dict) and isinstance(ours, gymnasium.spaces.Dict):
        return theirs.spaces.keys() == ours.spaces.keys() and all(
            same_space(theirs[key], ours[key]) for key in theirs.spaces
        )
    return type(theirs) is type(ours) and theirs.shape == ours.shape
