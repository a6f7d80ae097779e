"""Loading any trajectory model from its folder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebm_traj.core.checkpoint import from_dict, load_json, load_tensors
from ebm_traj.core.devices import require_device
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory import pretrained
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.ensemble import EnergyEnsemble
from ebm_traj.trajectory.fc import FCModel
from ebm_traj.trajectory.flow import DiffusionModel, FlowModel
from ebm_traj.trajectory.gaussian import GaussianModel
from ebm_traj.trajectory.mixture import MixtureModel
from ebm_traj.trajectory.model import CONFIG_FILE, FORMAT, FORMAT_VERSION, WEIGHTS_FILE, TrajectoryModel
from ebm_traj.trajectory.rbm import RBMModel

OLDEST_VERSION = 2  # that can still be read
# settings that older models lack, and what stood for them: of networks, and of kinds of model
ADDED_SETTINGS = {"linear_path": False, "whitening": None}
ADDED_TO_KINDS = {
    "ebm": {"least_share": 0.0, "clip_actions": False, "uniform_actions": False},
    "mixture": {"least_share": 0.0},
}

MODEL_FIELDS = ["config", "spec", "action_low", "action_high", "conditioning", "use_given", "card"]
ENSEMBLE_FIELDS = ["members", "weights"]

MODELS: dict[str, type[TrajectoryModel]] = {
    model.kind: model
    for model in (TrajectoryEBM, FCModel, GaussianModel, MixtureModel, FlowModel, DiffusionModel, RBMModel)
}


def model_class(kind: str) -> type[TrajectoryModel]:
    """The class of a kind of model; InputError names the kinds there are."""
    if kind not in MODELS:
        raise InputError(f"model: '{kind}' is unknown; accepted are {', '.join(MODELS)}")
    return MODELS[kind]


@torch.inference_mode(False)  # weights made in that mode could never be told from changed ones, nor trained
def load(folder: str | Path, device: torch.device | str = "cpu") -> TrajectoryModel:
    """The model saved in `folder`, in evaluation mode; or a shipped one by its name, see `pretrained.names`.

    Raises InputError if the folder holds no model, a damaged one, or one of another format, and for a device
    that is not there.
    """
    if not isinstance(folder, str | Path):
        raise InputError(f"model: {folder!r}; accepted is a folder or the name of a shipped model")
    require_device(device)
    if not Path(folder).is_dir():
        found = pretrained.find(folder)
        if found is None:
            raise InputError(
                f"{folder}: no such folder, and no shipped model; {pretrained.shipped()} (of pictures: "
                "load_image_model)"
            )
        folder = found
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: no model ({CONFIG_FILE} is missing); needed is a folder of train_traj.py"
        )
    saved = load_json(folder / CONFIG_FILE)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG_FILE}: not a model of this package")
    _require_whole(folder / CONFIG_FILE, saved)
    if not OLDEST_VERSION <= saved["version"] <= FORMAT_VERSION:
        raise InputError(
            f"{folder / CONFIG_FILE}: format version {saved['version']}; this package reads {OLDEST_VERSION} "
            f"to {FORMAT_VERSION}; train the model again, or use the package version it was made with"
        )
    config = saved.get("config", {})
    if saved["version"] < FORMAT_VERSION:
        config.get("network", {}).update(ADDED_SETTINGS | config.get("network", {}))
        config.update(ADDED_TO_KINDS.get(saved["kind"], {}) | config)
    if saved["kind"] == EnergyEnsemble.kind:
        return EnergyEnsemble.read(folder, saved, lambda member: load(member, device)).eval()
    cls = model_class(saved["kind"])
    try:
        settings, spec = from_dict(cls.config_class, saved["config"]), StateSpec.from_json(saved["spec"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG_FILE}: is damaged ({error})".splitlines()[0]) from error
    model = cls(
        settings,
        spec,
        np.array(saved["action_low"], dtype=np.float32),
        np.array(saved["action_high"], dtype=np.float32),
        saved["conditioning"],
        saved["use_given"],
    )
    model.card = saved["card"]
    weights, _ = load_tensors(folder / WEIGHTS_FILE)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: weights do not fit {CONFIG_FILE} ({error})".splitlines()[0]
        ) from error
    return model.to(device).eval().requires_grad_(False)


def _require_whole(path: Path, saved: Mapping[str, Any]) -> None:
    """InputError unless a `model.json` says all that is read of it."""
    needed = ["version", "kind"]
    needed += ENSEMBLE_FIELDS if saved.get("kind") == EnergyEnsemble.kind else MODEL_FIELDS
    if missing := [name for name in needed if name not in saved]:
        raise InputError(f"{path}: is damaged ({', '.join(missing)} missing)")


def weights_digest(model: TrajectoryModel) -> str:
    """A name for these very weights: sha256 over all of them."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
