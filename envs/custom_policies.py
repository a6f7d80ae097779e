"""Behaviour that users bring: a function of theirs, or a model of Stable-Baselines3."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError

ALGORITHMS = ("PPO", "SAC", "TD3", "DDPG", "A2C")  # those of Stable-Baselines3 with continuous actions

# A setting that only this algorithm, among those below it, has. DDPG is TD3 with other settings.
TOLD_BY = {"clip_range": "PPO", "target_entropy": "SAC", "policy_delay": "TD3", "gae_lambda": "A2C"}


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
    arguments, is taken as a `Policy` instead, with its `goal_conditioned`, `needs_simulator` and `markov`;
    one that does not say `markov` is taken to have a memory.

    Raises InputError if there is no such function, if it is none, if what it returns has another shape or is
    not finite, and if it needs simulator states where there are none. What its own code raises goes through.
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
        self.module_sha256 = module_sha256(settings.target)
        """Of the file that the function is in: a collection goes on with what it was begun with."""
        if isinstance(found, type):
            found = made_without_arguments(settings.target, found)
        self._policy = found if hasattr(found, "act") and hasattr(found, "reset") else None
        if self._policy is not None:
            self.goal_conditioned = bool(getattr(found, "goal_conditioned", True))
            self.needs_simulator = bool(getattr(found, "needs_simulator", False))
            self.markov = bool(getattr(found, "markov", False))
        elif not callable(found):
            raise InputError(
                f"policy '{self.target}': is a {type(found).__name__}; needed is a function of observations, "
                "or an object with reset() and act()"
            )
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
        if self.needs_simulator and simulator_states is None:
            raise InputError(f"policy {self.target}: needs simulator states, which this environment has not")
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

    It is evaluated in float64, so that an action, rounded to float32, does not depend on the batch.

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
            if not same_space(wanted, found, bounds=what == "actions"):
                raise InputError(
                    f"policy {self.file}: made for {what} {in_short(wanted)}; environment '{env_id}' has "
                    f"{in_short(found)}"
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


def look_here_too() -> str:
    """Let modules of the current folder, which is returned, be found."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last: a folder of its own called `datasets` hides no installed package
    return folder


def find_function(target: str) -> Any:
    """What `module:name` stands for. InputError if there is no such module or name."""
    module, _, name = target.partition(":")
    if not module or not name or module.startswith("."):
        raise InputError(f"policy '{target}': needed is module:function")
    folder = look_here_too()
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
    return found


def module_sha256(target: str) -> str | None:
    """Of the file of the module of `module:name`, which has been imported; None where it has no such file."""
    file = getattr(sys.modules[target.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def made_without_arguments(target: str, cls: type) -> Any:
    """An object of the class. InputError if it cannot be made without arguments."""
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise InputError(f"policy '{target}': is a class to be made without arguments; {error}") from None
    return cls()


def checked_actions(
    who: str, found: Any, rows: int, low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Actions (N, A) clipped to the action box; InputError for another shape and for what is not finite."""
    wanted = (rows, len(low))
    try:
        actions = np.asarray(found)
    except (RuntimeError, TypeError, ValueError) as error:  # rows of unlike lengths, a tensor with a gradient
        raise InputError(f"{who}: gave no array of numbers {wanted} ({in_short(error)})") from None
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
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    except ModuleNotFoundError:
        raise InputError(f'policy {path}: needs Stable-Baselines3: pip install "ebm_traj[sb3]"') from None
    if not path.is_file():
        raise InputError(f"policy {path}: no such file; needed is a model saved by Stable-Baselines3")
    if hashlib.sha256(path.read_bytes()).hexdigest() != settings.sha256:
        raise InputError(f"policy {path}: is not the file that the data set was begun with")
    look_here_too()  # a model may have been made with classes of the user's
    cls = getattr(stable_baselines3, algorithm_of(path))
    try:
        model = cls.load(path, device="cpu")
    except Exception as error:  # unpickling another's file may raise anything
        raise InputError(
            f"policy {path}: a damaged model of Stable-Baselines3 ({type(error).__name__}: {in_short(error)})"
        ) from error
    model.policy.double()
    for module in model.policy.modules():
        if isinstance(module, BaseFeaturesExtractor):  # what it is given, Stable-Baselines3 casts to float32
            module.register_forward_pre_hook(_as_double)
    return model


def algorithm_of(path: Path) -> str:
    """The algorithm that saved a zip file, told by its settings: the file does not name it.

    InputError if it is no model of Stable-Baselines3, or of an algorithm not in `ALGORITHMS`.
    """
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError) as error:
        raise InputError(f"policy {path}: not a model of Stable-Baselines3 ({in_short(error)})") from None
    if not isinstance(data, dict) or not isinstance(data.get("policy_class"), dict):
        raise InputError(f"policy {path}: not a model of Stable-Baselines3")
    # A model of sb3_contrib may keep a memory, or squash its actions otherwise.
    if not str(data["policy_class"].get("__module__", "")).startswith("sb3_contrib"):
        for setting, name in TOLD_BY.items():
            if setting in data:
                return name
    raise InputError(f"policy {path}: no model of {', '.join(ALGORITHMS)}")


def _as_double(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs of a features extractor, a tensor or a dict of such, in float64."""
    return tuple(
        {key: value.double() for key, value in given.items()} if isinstance(given, dict) else given.double()
        for given in inputs
    )


def same_space(theirs: gymnasium.Space, ours: gymnasium.Space, bounds: bool = False) -> bool:
    """Whether two spaces hold arrays of the same shapes; with `bounds` also within the same limits."""
    if isinstance(theirs, gymnasium.spaces.Dict) and isinstance(ours, gymnasium.spaces.Dict):
        return theirs.spaces.keys() == ours.spaces.keys() and all(
            same_space(theirs[key], ours[key], bounds) for key in theirs.spaces
        )
    if not isinstance(theirs, gymnasium.spaces.Box) or not isinstance(ours, gymnasium.spaces.Box):
        return False
    same = theirs.shape == ours.shape
    return same and (
        not bounds or (np.allclose(theirs.low, ours.low) and np.allclose(theirs.high, ours.high))
    )


def in_short(thing: Any) -> str:
    """Its text in one line of at most 200 characters."""
    text = " ".join(str(thing).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
