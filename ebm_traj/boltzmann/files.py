"""An RBM's file: safetensors with its sizes, base biases and card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.core.checkpoint import load_tensors, save_tensors
from ebm_traj.errors import InputError

RBM_FILE = "rbm.safetensors"
KIND = "ebm_traj.rbm"


def save_rbm(folder: Path, rbm: RBM, base: Tensor, card: dict[str, Any]) -> None:
    """Write `rbm.safetensors` into `folder`; `base` (n,) are the biases AIS begins with."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {**rbm.state_dict(), "base": base}
    save_tensors(folder / RBM_FILE, tensors, {"kind": KIND, "units": rbm.units, "card": card})


def load_rbm(folder: Path | str, device: torch.device | str = "cpu") -> tuple[RBM, Tensor, dict[str, Any]]:
    """The RBM of a folder, its base biases (n,) and card. InputError if there is none."""
    path = Path(folder) / RBM_FILE
    tensors, meta = load_tensors(path, device)
    if meta.get("kind") != KIND:
        raise InputError(f"{path}: no RBM; needed is a folder of train_rbm.py")
    base = tensors.pop("base")
    visible, hidden = tensors["weights"].shape
    rbm = RBM(visible, hidden, meta["units"]).to(device)
    rbm.load_state_dict(tensors)
    return rbm.requires_grad_(False), base, meta["card"]


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a checkpoint gives them back: tuples are lists, paths strings."""
    return json.loads(json.dumps(settings, default=str))
