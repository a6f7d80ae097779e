"""Sampling steps against scores on a known robot, and samplers that stop by themselves."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.backends import use
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.convergence import UntilConverged
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.branches import Branches
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train
from ebm_traj.yardstick.sweep import CONVERGED, chain_of, picture, settings_of, sweep, text_table

NETWORK = NetworkConfig(context_frames=2, width=32, depth=2, architecture="mlp", context_noise=0.02)
CHAIN = LangevinConfig(steps=8, step_size=0.1, metropolis=True)
CONFIG = EBMConfig(NETWORK, contrastive=ContrastiveConfig(128, CHAIN, buffer_size=1000), residual=False)
# a start around the last frame that knows nothing of what follows: the chain has to find it
CONTRASTIVE = dataclasses.replace(CONFIG, proposal="noise", start_noise=1.5, energy_start=0)
DENOISING = dataclasses.replace(CONFIG, training="denoising")
CONVERGING = UntilConverged(CHAIN, check_every=3)


def fit(toy, out, config, iterations, conditioning="states"):
    trainer = TrainerConfig(iterations=iterations, warmup=20, validate_every=0)
    settings = TrainSettings(trainer=trainer, conditioning=conditioning, inverse_iterations=0)
    return train(toy, "ebm", config, settings, out, fabric=make_fabric("cpu"))


@pytest.fixture(scope="module")
def denoising(toy, tmp_path_factory):
    return fit(toy, tmp_path_factory.mktemp("runs") / "denoising", DENOISING, 500)


@pytest.fixture(scope="module")
def contrastive(toy, tmp_path_factory):
    return fit(toy, tmp_path_factory.mktemp("runs") / "contrastive", CONTRASTIVE, 400)


@pytest.fixture(scope="module")
def branches(toy):
    """32 futures of 4 steps of moments of the toy robot, by its own law."""
    rng = np.random.default_rng(3)
    rows = toy.episode_rows("validation")[:8]
    contexts, _ = toy.read_windows(toy.offsets[rows] + 5, 2)
    frames = np.repeat(contexts[:, None, -1], 32, axis=1).astype(np.float64)
    futures = []
    for _ in range(4):
        place = 0.9 * frames[..., :2] + 0.2 * rng.uniform(-1, 1, frames[..., :2].shape)
        frames = frames.copy()
        frames[..., :2] = place + 0.05 * rng.normal(size=place.shape)
        half = np.arctan2(frames[..., 5], frames[..., 2]) + 0.05 * rng.normal(size=frames.shape[:2])
        frames[..., 2], frames[..., 5] = np.cos(half), np.sin(half)
        futures.append(frames)
    return Branches(
        contexts=contexts,
        futures=np.stack(futures, axis=2).astype(np.float32),
        actions=np.zeros((8, 32, 4, 2), np.float32),
        episode=toy.episode[rows],
        t=np.full(8, 6),
        spec=toy.spec,
        settings={},
    )


def swept(toy, settings, branches):
    return sweep(toy, settings, branches=branches, horizon=4, rollouts=8, progress=False)


def scores(found):
    return {setting.name: row.scores["energy_score"]["mean"] for setting, row in found.rows}


@pytest.fixture(scope="module")
def of_levels(toy, denoising, branches):
    converged = UntilConverged(chain_of(denoising))
    return swept(toy, settings_of(denoising, (2, 4, 12), converged=converged), branches)


def test_more_noise_levels_predict_better(of_levels):
    found = scores(of_levels)
    assert found["heun 2"] > 1.15  # two levels are too few
    assert found["heun 2"] > found["heun 4"] > found["heun 12"] - 0.02
    assert found["heun 12"] < 1.1 and found["multistep 12"] < 1.1


def test_more_steps_of_a_chain_from_a_poor_start_predict_better(toy, contrastive, branches):
    found = scores(swept(toy, settings_of(contrastive, (0, 8, 64)), branches))
    assert found["langevin 0"] > found["langevin 8"] > found["langevin 64"]
    assert found["langevin 64"] < 1.2 < found["langevin 0"]


def test_settings_share_weights_and_say_what_they_cost(denoising, contrastive):
    settings = settings_of(denoising, (4,), ("heun", "euler"), corrector_steps=3)
    parameter = next(denoising.parameters())
    assert all(next(setting.model.parameters()) is parameter for setting in settings)
    assert denoising.sampler is denoising.config.annealing
    # 3 moves of 2 gradients, 3 corrector steps and their start, the denoised mean and the one of the start
    assert [setting.gradients_per_frame for setting in settings] == [6 + 4 + 2, 3 + 4 + 2]
    costs = [setting.gradients_per_frame for setting in settings_of(contrastive, (0, 5))]
    assert costs == [0, 6]  # a corrected chain needs the gradient of its start


def counted(model, monkeypatch):
    """A list that grows by the rows of every gradient that the model's networks give from now on."""
    from ebm_traj.core import energy

    calls, real = [], energy.energy_and_gradient

    def counting(bound, x):
        calls.append(len(x))
        return real(bound, x)

    for module in ("core.annealing", "core.langevin", "trajectory.ebm", "trajectory.walks"):
        monkeypatch.setattr(f"ebm_traj.{module}.energy_and_gradient", counting)
    return calls


@pytest.mark.parametrize("kind", ["levels", "plain"])
def test_the_gradients_told_are_those_taken(denoising, contrastive, monkeypatch, kind):
    model = denoising if kind == "levels" else contrastive
    converged = UntilConverged(chain_of(model), check_every=3)
    context = torch.zeros(1, 2, 7)
    context[..., 2] = 1
    for setting in settings_of(model, (3, 5), converged=converged):
        with monkeypatch.context() as patch:
            calls = counted(model, patch)
            with use("autograd"):  # the one way that all gradients go
                setting.model.sample(context, 3, 40, generator=torch.Generator().manual_seed(0))
        assert set(calls) == {40}
        assert setting.gradients_per_frame == pytest.approx(len(calls) / 3)


def test_a_sampler_that_stops_by_itself_predicts_as_well_and_says_its_cost(of_levels):
    found = scores(of_levels)
    setting = next(setting for setting in of_levels.settings if setting.steps is None)
    assert found[CONVERGED] < found["heun 12"] + 0.05
    assert setting.stopped > 0.5
    assert setting.gradients_per_frame > of_levels.settings[0].gradients_per_frame


def test_it_takes_fewer_gradients_from_a_nearer_start(contrastive):
    """The same energy, from starts around the last frame and from some that are ten units away."""
    near, far = (copy.copy(contrastive) for _ in range(2))
    far._modules = dict(contrastive._modules)
    far.proposal = NoiseProposal(lambda condition: contrastive._stay(condition) + 10, 1.5)
    context = torch.zeros(1, 2, 7)
    context[..., 2] = 1
    for model in (near, far):
        model.sampler = CONVERGING
        model.sample(context, 3, 300, generator=torch.Generator().manual_seed(0))
    assert near.spent.stopped == far.spent.stopped == near.spent.windows == 900
    assert near.gradients_per_window < 0.7 * far.gradients_per_window


def test_a_lone_chain_walks_to_the_limit_and_the_count_begins_anew(contrastive):
    model = copy.copy(contrastive)
    model.sampler = dataclasses.replace(CONVERGING, max_steps=10)
    context = torch.zeros(1, 2, 7)
    context[..., 2] = 1
    assert model.sample(context, 2, 1).isfinite().all()
    assert (model.spent.windows, model.spent.stopped, model.gradients_per_window) == (2, 0, 11)
    model.sampler = CONVERGING
    assert model.gradients_per_window == 0
    assert contrastive.spent.windows == 0  # a copy counts for itself


def test_joint_models_count_both_of_their_stages(toy, tmp_path):
    config = EBMConfig(NETWORK, components=2, correction_width=16, contrastive=CONFIG.contrastive)
    model = fit(toy, tmp_path / "joint", config, 4, "joint")
    model.sampler = CHAIN
    assert model.gradients_per_window == 2 * CHAIN.gradients
    model.sampler = dataclasses.replace(CONVERGING, max_steps=6)  # two blocks of 3 steps and their starts
    context = torch.zeros(1, 2, 7)
    context[..., 2] = 1
    model.sample(context, 1, 20, past_actions=torch.zeros(1, 1, 2))
    assert model.gradients_per_window == 2 * 2 * 4


def test_the_picture_and_the_table_have_every_setting_and_column(of_levels):
    table = text_table(of_levels)
    for setting in of_levels.settings:
        assert f"\n{setting.name}" in table
    for label in ("Gradients", "FD", "ES mean", "Diversity", "Motion", "Plan, ms"):
        assert label in table
    assert picture(of_levels, "toy").startswith(b"\x89PNG")
    content = json.loads(json.dumps(of_levels.to_json(), allow_nan=False))
    assert content["split"] == "validation"
    assert content["samplers"]["heun 4"] | {"sampler": None} == {
        **{"solver": "heun", "steps": 4, "gradients_per_frame": 8, "stopped_by_itself": None},
        "sampler": None,
    }
    assert content["samplers"]["heun 4"]["sampler"]["steps"] == 4
    assert set(content["samplers"]) < set(content["rows"])


def test_a_model_that_blows_up_is_drawn_as_such(of_levels):
    broken = copy.deepcopy(of_levels.comparison)
    row = next(row for row in broken.rows if row.name == "heun 2")
    row.scores["fd"], row.scores["motion"] = math.inf, math.nan
    assert picture(dataclasses.replace(of_levels, comparison=broken), "toy").startswith(b"\x89PNG")


def test_perfect_values_are_the_floor_or_one(of_levels):
    found = {column.label: of_levels.perfect(column) for column in of_levels.columns}
    assert found["FD"] == of_levels.comparison.floor["fd"]
    assert found["ES mean"] == found["Diversity"] == found["Motion"] == found["Ranks"] == 1
    assert found["Plan, ms"] is None


def test_bad_settings_are_named(denoising, contrastive):
    with pytest.raises(InputError, match="annealing steps: 0"):
        settings_of(denoising, (0,))
    with pytest.raises(InputError, match="Langevin steps: -1"):
        settings_of(contrastive, (-1,))
    with pytest.raises(InputError, match="no noise levels"):
        settings_of(contrastive, (2,), ("heun",))
    with pytest.raises(InputError, match="'heun 4' is asked for twice"):
        settings_of(denoising, (4, 4), ("heun",))
    with pytest.raises(InputError, match="steps: none"):
        settings_of(denoising, ())
    with pytest.raises(InputError, match="max_steps: 5; needs 6"):
        UntilConverged(CHAIN, max_steps=5, check_every=3)
    for model, wrong in ((denoising, CHAIN), (contrastive, AnnealConfig()), (contrastive, FCConfig())):
        with pytest.raises(InputError, match=r"accepted for this energy are \w+ and UntilConverged"):
            copy.copy(model).sampler = wrong
