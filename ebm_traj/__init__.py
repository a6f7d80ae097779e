"""Energy-based models of robot trajectories: collect, train, sample diverse futures, act.

Importing this registers the environments with Gymnasium and nothing more; torch, mujoco and the names
below are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebm_traj.errors import InputError
from ebm_traj.registration import register_envs
from ebm_traj.spec import StateSpec

if TYPE_CHECKING:
    from ebm_traj.datasets.recording import Recording
    from ebm_traj.image.model import load_image_model
    from ebm_traj.planning.rollout import rollout
    from ebm_traj.planning.rollout_data import Rollout
    from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
    from ebm_traj.trajectory.fc import FCConfig, FCModel
    from ebm_traj.trajectory.files import load
    from ebm_traj.trajectory.model import TrajectoryModel
    from ebm_traj.trajectory.network_config import NetworkConfig
    from ebm_traj.trajectory.training import TrainSettings, train

__version__ = "0.1.0"

_HOME = {
    "EBMConfig": "trajectory.ebm",
    "FCConfig": "trajectory.fc",
    "FCModel": "trajectory.fc",
    "NetworkConfig": "trajectory.network_config",
    "Recording": "datasets.recording",
    "Rollout": "planning.rollout_data",
    "TrainSettings": "trajectory.training",
    "TrajectoryEBM": "trajectory.ebm",
    "TrajectoryModel": "trajectory.model",
    "load": "trajectory.files",
    "load_image_model": "image.model",
    "rollout": "planning.rollout",
    "train": "trajectory.training",
}

__all__ = [
    "EBMConfig",
    "FCConfig",
    "FCModel",
    "InputError",
    "NetworkConfig",
    "Recording",
    "Rollout",
    "StateSpec",
    "TrainSettings",
    "TrajectoryEBM",
    "TrajectoryModel",
    "load",
    "load_image_model",
    "rollout",
    "train",
]

register_envs()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"ebm_traj.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ebm_traj' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
