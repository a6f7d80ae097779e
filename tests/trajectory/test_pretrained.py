"""Shipped models: found by name, named when missed, all of them loadable and covered by the package data."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import ebm_traj
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.trajectory import pretrained
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.network_config import NetworkConfig

PROJECT = Path(__file__).parents[2]


def tiny(toy) -> FCModel:
    box = np.ones(2, np.float32)
    return FCModel(
        FCConfig(NetworkConfig(context_frames=2, width=8, depth=1)), with_training_statistics(toy), -box, box
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty place for shipped models."""
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def draw(model: TrajectoryModel) -> torch.Tensor:
    """Two futures of three steps from a standing start, whatever the model is told."""
    context = torch.as_tensor(model.spec.mean, dtype=torch.float32).repeat(1, model.context_frames, 1)
    for dims in [*model.spec.quaternions, *model.spec.given_quaternions]:
        context[..., dims] = torch.tensor([1.0, 0, 0, 0])
    actions = torch.zeros(1, 1, 3, model.action_size) if model.conditioning == "actions" else None
    past = torch.zeros(1, model.action_history, model.action_size) if model.action_history else None
    return model.sample(
        context, 3, 2, actions=actions, past_actions=past, generator=torch.Generator().manual_seed(0)
    )


def test_a_shipped_model_is_loaded_by_its_name(toy, shelf):
    model = tiny(toy)
    model.save(shelf / "toy-states")
    (shelf / "toy-states" / "README.md").write_text("# toy-states\ntrained on nothing\n")
    (shelf / "notes").mkdir()  # no model
    assert pretrained.names() == ["toy-states"]
    assert pretrained.find("toy-states") == shelf / "toy-states" and pretrained.find("notes") is None
    assert "trained on nothing" in pretrained.card("toy-states")
    assert torch.equal(draw(ebm_traj.load("toy-states")), draw(model))


def test_a_folder_of_that_name_comes_first(toy, shelf, tmp_path, monkeypatch):
    shipped, own = tiny(toy), tiny(toy)
    shipped.save(shelf / "toy-states")
    own.save(tmp_path / "toy-states")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(draw(ebm_traj.load("toy-states")), draw(own))


def test_an_unknown_name_lists_the_shipped_ones(toy, shelf):
    with pytest.raises(InputError, match="hand: no such folder, and no shipped model; none is shipped"):
        ebm_traj.load("hand")
    for name in ("toy-b", "toy-a"):
        tiny(toy).save(shelf / name)
    with pytest.raises(InputError, match="shipped are toy-a, toy-b"):
        ebm_traj.load("hand")
    with pytest.raises(InputError, match="'hand' is unknown; shipped are toy-a, toy-b"):
        pretrained.card("hand")
    with pytest.raises(InputError, match="no such folder"):
        ebm_traj.load("../pretrained/toy-a")  # a name is no path


@pytest.mark.parametrize("name", pretrained.names())
def test_every_shipped_model_samples_and_has_a_card(name):
    model = ebm_traj.load(name)
    futures = draw(model)
    assert futures.shape == (1, 2, 3, model.spec.size) and torch.isfinite(futures).all()
    assert len(pretrained.card(name).splitlines()) > 5 and model.card["iterations"] > 0


def test_an_installed_package_has_the_shipped_files(tmp_path):
    globs = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    wanted = [*globs["*"], *globs.get("ebm_traj", [])]

    def covered(package: Path) -> set[Path]:
        return {path for pattern in wanted for path in package.glob(pattern)}

    package = PROJECT / "ebm_traj"
    files = {path for path in (package / "pretrained").rglob("*") if path.is_file()}
    assert files <= covered(package)
    # what a model and an ensemble of models would add
    for name in ("model.json", "model.safetensors", "README.md", "member-0/model.json"):
        path = tmp_path / "pretrained" / "name" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert path in covered(tmp_path), name
