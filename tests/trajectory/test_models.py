"""Energy model and baseline: one interface, right predictions on a robot known in closed form, safe files."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import ebm_traj
from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.denoising import DenoisingConfig
from ebm_traj.core.energy import energy_and_gradient
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TRAINING_FILE, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import make_network
from ebm_traj.trajectory.prepared_condition import PreparedCondition
from ebm_traj.trajectory.presets import paper_ebm, paper_fc, paper_trainer
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train

NETWORK = NetworkConfig(context_frames=2, width=32, depth=2, architecture="mlp", context_noise=0.02)
CHAIN = LangevinConfig(steps=8, step_size=0.1, metropolis=True)
ALONE = EBMConfig(
    NETWORK,
    contrastive=ContrastiveConfig(128, CHAIN, buffer_size=1000),
    proposal="gaussian",
    residual=False,
    energy_start=0,
)
EBM = EBMConfig(
    NETWORK,
    contrastive=ContrastiveConfig(128, dataclasses.replace(CHAIN, step_size=0.3), buffer_size=1000),
    components=4,
    correction_width=32,
)
FC = FCConfig(NETWORK, 128)
VARIANTS = {
    "energy alone": ALONE,
    "ranking": dataclasses.replace(EBM, training="ranking"),
    "denoising": dataclasses.replace(EBM, training="denoising"),
    "combined": dataclasses.replace(EBM, training="combined"),
    "residual network": dataclasses.replace(
        EBM, network=dataclasses.replace(NETWORK, architecture="residual")
    ),
    "temporal network": dataclasses.replace(
        EBM, network=dataclasses.replace(NETWORK, architecture="temporal")
    ),
}
CONFIGS = {"ebm": EBM, "fc": FC}


def settings(iterations=300, **changes) -> TrainSettings:
    trainer = TrainerConfig(
        iterations=iterations, log_every=50, checkpoint_every=100, validate_every=0, warmup=20
    )
    return TrainSettings(trainer=trainer, **{"inverse_iterations": 400, **changes})


def quick(toy, out, kind="ebm", iterations=300, **changes):
    return train(toy, kind, CONFIGS[kind], settings(iterations, **changes), out, fabric=make_fabric("cpu"))


@pytest.fixture(scope="module")
def models(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {
        (kind, conditioning): quick(
            toy,
            out / f"{kind}-{conditioning}",
            kind,
            600 if kind == "ebm" else 400,
            conditioning=conditioning,
        )
        for kind in CONFIGS
        for conditioning in ("states", "actions")
    }


def context_at(place, frames=2):
    state = torch.tensor([*place, 1.0, 0, 0, 0, 0.3])
    return state.repeat(1, frames, 1)


def test_energy_model_samples_the_true_next_state(models):
    next_states = models["ebm", "states"].sample(
        context_at([0.5, -0.5]), 1, 4000, generator=torch.Generator().manual_seed(0)
    )
    drawn = next_states[0, :, 0]
    # 0.2 times uniform noise and 0.05 times normal noise
    true_std = (0.2**2 / 3 + 0.05**2) ** 0.5
    assert torch.allclose(drawn[:, :2].mean(0), torch.tensor([0.45, -0.45]), atol=0.03)
    assert torch.allclose(drawn[:, :2].std(0), torch.full((2,), true_std), rtol=0.2)
    turn = 2 * torch.atan2(drawn[:, 5], drawn[:, 2])
    assert float(turn.std()) == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_training_finds_the_next_state(toy, tmp_path, name):
    config = VARIANTS[name]
    model = train(toy, "ebm", config, settings(400, inverse_iterations=0), tmp_path / "run")
    drawn = model.sample(context_at([0.5, -0.5]), 1, 2000, generator=torch.Generator().manual_seed(0))[
        0, :, 0
    ]
    assert torch.allclose(drawn[:, :2].mean(0), torch.tensor([0.45, -0.45]), atol=0.05)
    assert torch.allclose(drawn[:, :2].std(0), torch.full((2,), 0.126), rtol=0.3)


def test_actions_narrow_the_prediction_to_what_they_cause(models):
    model = models["ebm", "actions"]
    actions = torch.tensor([[[[1.0, -1.0]]]])
    drawn = model.sample(
        context_at([0.5, -0.5]), 1, 4000, actions=actions, generator=torch.Generator().manual_seed(0)
    )[0, :, 0]
    assert torch.allclose(drawn[:, :2].mean(0), torch.tensor([0.65, -0.65]), atol=0.03)
    assert float(drawn[:, :2].std(0).max()) < 0.085  # without actions it is 0.126


def test_baseline_gives_the_mean_for_every_sample(models):
    drawn = models["fc", "states"].sample(context_at([0.5, -0.5]), 3, 5)
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn))
    assert torch.allclose(drawn[0, 0, 0, :2], torch.tensor([0.45, -0.45]), atol=0.04)


def test_energy_is_lower_for_what_happens_than_for_what_does_not(models, toy):
    model = models["ebm", "states"]
    episodes = toy.load("test")
    windows = torch.from_numpy(episodes.states[episodes.window_starts(3)[:, None] + np.arange(3)])
    wrong = windows.clone()
    wrong[:, -1, :2] += 0.5
    assert float((model.energy(windows) < model.energy(wrong)).float().mean()) > 0.95


@pytest.mark.parametrize("conditioning", ["states", "actions"])
def test_energy_bound_to_its_condition_has_the_same_values_and_gradients(models, conditioning):
    model = models["ebm", conditioning]
    actions = torch.randn(1, 1, 2).expand(9, -1, -1) if conditioning == "actions" else None
    condition = model.condition(context_at([0.3, -0.2]).repeat(9, 1, 1), actions)
    x = torch.randn(9, model.codec.target_size)
    value, gradient = energy_and_gradient(model.window_energy.bind(condition), x)
    expected, slope = energy_and_gradient(lambda y: model.window_energy(y, condition), x)
    assert torch.allclose(value, expected, atol=1e-5) and torch.allclose(gradient, slope, atol=1e-5)


def test_inverse_dynamics_recovers_the_action(models):
    context = context_at([0.5, -0.5])
    wanted = context[:, -1].clone()
    wanted[:, :2] = 0.9 * wanted[:, :2] + 0.2 * torch.tensor([0.8, -0.3])
    # the mean action given the change: part of the change is noise, var(0.2 a) / var(0.2 a + 0.05 n) = 0.84
    expected = 0.84 * torch.tensor([[0.8, -0.3]])
    assert torch.allclose(models["ebm", "states"].act(context, wanted), expected, atol=0.12)


def test_actions_stay_inside_the_box(models):
    far = context_at([0.0, 0.0])[:, -1] + 50
    action = models["ebm", "states"].act(context_at([0.0, 0.0]), far)
    assert float(action.abs().max()) <= 1


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("conditioning", ["states", "actions"])
def test_samples_have_the_stated_shape_and_hold_the_given_dimensions(models, kind, conditioning):
    model = models[kind, conditioning]
    context = context_at([0.1, 0.2]).repeat(3, 1, 1)
    actions = torch.zeros(3, 1, 4, 2) if conditioning == "actions" else None
    futures = model.sample(context, 4, 5, actions=actions)
    assert futures.shape == (3, 5, 4, 7) and torch.isfinite(futures).all()
    assert torch.equal(futures[..., 6], torch.full((3, 5, 4), 0.3))
    assert torch.allclose(futures[..., 2:6].norm(dim=-1), torch.ones(3, 5, 4))


def test_sampling_is_a_function_of_the_generator(models):
    a, b, c = (
        models["ebm", "states"].sample(context_at([0, 0]), 3, 4, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_path_energy_is_the_mean_over_the_windows(models):
    model = models["ebm", "states"]
    context = context_at([0.3, 0.1])
    futures = model.sample(context, 3, 2)
    frames = torch.cat([context[:, None].expand(-1, 2, -1, -1), futures], dim=2)[0]
    by_hand = torch.stack([model.energy(frames[:, t : t + 3]) for t in range(3)]).mean(0)
    assert torch.allclose(model.path_energy(context, futures)[0], by_hand, atol=1e-5)


@pytest.mark.parametrize("width", [2, 3])
def test_windows_of_several_frames_train_and_sample_any_horizon(toy, tmp_path, width):
    network = dataclasses.replace(NETWORK, window_frames=width)
    model = train(
        toy,
        "ebm",
        dataclasses.replace(EBM, network=network),
        settings(20, conditioning="actions"),
        tmp_path / "w",
    )
    futures = model.sample(context_at([0, 0]), 5, 2, actions=torch.zeros(1, 2, 5, 2))
    assert futures.shape == (1, 2, 5, 7)


# --- files --------------------------------------------------------------------------------------------


def test_a_loaded_model_gives_the_same_samples(models, toy, tmp_path):
    for (kind, conditioning), model in models.items():
        model.save(tmp_path / kind)
        again = ebm_traj.load(tmp_path / kind)
        actions = torch.zeros(1, 1, 3, 2) if conditioning == "actions" else None
        a, b = (
            m.sample(
                context_at([0.2, 0.1]), 3, 4, actions=actions, generator=torch.Generator().manual_seed(0)
            )
            for m in (model, again)
        )
        assert torch.equal(a, b)
        assert again.spec.difference(toy.spec) is None and again.card == model.card


def test_a_model_loaded_in_inference_mode_is_like_any_other(models, tmp_path):
    model = models["ebm", "states"]
    model.save(tmp_path)

    def draw(of):
        return of.sample(context_at([0.2, 0.1]), 3, 4, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        again = load(tmp_path)
        assert torch.equal(draw(again), draw(model))
    assert torch.equal(draw(again), draw(model))


def test_broken_folders_are_named(models, tmp_path):
    with pytest.raises(InputError, match=r"no model \(model.json is missing\)"):
        load(tmp_path)
    models["fc", "states"].save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        load(tmp_path)
    config = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(config | {"kind": "gan"}))
    with pytest.raises(InputError, match="'gan' is unknown; accepted are ebm, fc"):
        load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(config | {"version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        load(tmp_path)
    for name in ("spec", "version", "kind", "config", "card"):
        rest = {key: value for key, value in config.items() if key != name}
        (tmp_path / "model.json").write_text(json.dumps(rest))
        with pytest.raises(InputError, match=rf"model\.json: is damaged \({name} missing\)"):
            load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(config | {"spec": "{}"}))
    with pytest.raises(InputError, match=r"model\.json: is damaged"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load(tmp_path)


def test_models_of_the_format_before_still_load(toy, tmp_path):
    """Version 2 had no linear path and no whitening, and drew all components: its settings are silent."""
    network = dataclasses.replace(NETWORK, coordinates="change", linear_path=False, whitening=None)
    config = dataclasses.replace(EBM, network=network)
    model = train(toy, "ebm", config, settings(iterations=3, inverse_iterations=0), tmp_path / "run")
    path = tmp_path / "run" / "model.json"
    saved = json.loads(path.read_text())
    assert saved["version"] == 5
    for name in ("linear_path", "whitening"):
        del saved["config"]["network"][name]
    for name in ("least_share", "clip_actions", "uniform_actions"):
        del saved["config"][name]
    path.write_text(json.dumps(saved | {"version": 2}))
    old = load(tmp_path / "run")
    assert old.network_config == network
    assert old.config.least_share == 0 and model.config.least_share > 0
    assert not old.config.clip_actions and model.config.clip_actions
    assert not old.config.uniform_actions and model.config.uniform_actions
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
def test_a_linear_path_adds_a_linear_function_that_starts_at_zero(architecture, per_frame):
    size = dataclasses.replace(NETWORK, architecture=architecture, window_frames=2)
    torch.manual_seed(0)
    with_path = make_network(size, 5, 3, 4, per_frame=per_frame, levels=True)
    assert isinstance(with_path, PreparedCondition)
    condition, x, level = torch.randn(6, 5), torch.randn(6, 6), torch.randn(6)
    bare = with_path.network
    expected = bare(bare.encode(condition), x, level)
    assert torch.equal(with_path(with_path.encode(condition), x, level), expected)
    torch.nn.init.normal_(with_path.linear.weight)
    found = with_path(with_path.encode(condition), x, level) - expected
    assert found.shape == (6, 8 if per_frame else 4)
    assert torch.allclose(found, condition @ with_path.linear.weight.T, atol=1e-5)
    neither = dataclasses.replace(size, linear_path=False, whitening=None)
    assert not isinstance(make_network(neither, 5, 3, 4, per_frame=per_frame), PreparedCondition)


# --- training -----------------------------------------------------------------------------------------


def test_training_twice_gives_the_same_model_and_resuming_too(toy, tmp_path, monkeypatch):
    one, two = (quick(toy, tmp_path / name, iterations=40) for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    from ebm_traj.core.trainer import Trainer

    step, calls = Trainer.step, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return step(self)

    short = dataclasses.replace(
        settings(40), trainer=dataclasses.replace(settings(40).trainer, checkpoint_every=10)
    )
    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(toy, "ebm", EBM, short, tmp_path / "three")
    assert (tmp_path / "three" / TRAINING_FILE).is_file()
    monkeypatch.setattr(Trainer, "step", step)
    three = train(toy, "ebm", EBM, short, tmp_path / "three", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_an_existing_or_finished_run_is_not_touched(toy, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        quick(toy, tmp_path)
    with pytest.raises(InputError, match="no run to resume"):
        train(toy, "ebm", EBM, settings(10), tmp_path, resume=True)
    quick(toy, tmp_path / "done", "fc", 10)
    with pytest.raises(InputError, match="finished"):
        train(toy, "fc", FC, settings(10), tmp_path / "done", resume=True)
    with pytest.raises(InputError, match="'vae' is unknown; accepted are ebm, fc"):
        train(toy, "vae", FC, settings(10), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_logs_and_card_tell_what_was_done(toy, tmp_path):
    model = quick(toy, tmp_path / "run", iterations=100)
    from ebm_traj.core.logs import read_metrics

    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["iteration"] for row in rows] == [50, 100]
    assert {"likelihood/loss", "gradient_norm", "loss"} <= set(rows[0])
    named = ("energy_data", "energy_samples", "acceptance", "buffer_age_mean")
    assert {f"contrastive/{name}" for name in named} <= set(rows[1])  # it joins in after three quarters
    assert model.card["iterations"] == 100 and model.card["gradients_per_iteration"] == 11
    assert model.card["env_id"] == "Toy-v0" and (tmp_path / "run" / "curves.png").is_file()


def test_the_literature_settings_train(toy, tmp_path):
    trainer = dataclasses.replace(paper_trainer(), iterations=3, validate_every=0)
    short = dataclasses.replace(settings(3), trainer=trainer)
    for kind, config in (("ebm", paper_ebm()), ("fc", paper_fc())):
        model = train(toy, kind, config, short, tmp_path / kind)
        assert torch.isfinite(model.sample(context_at([0, 0], 4), 2, 3)).all()
    assert paper_ebm().contrastive.langevin == LangevinConfig(20, 1.0, noise=0.001)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(torch.zeros(1, 3, 7), 2, 1), r"context: shape \(1, 3, 7\).*\(batch, 2, 7\)"),
        (lambda m: m.sample(torch.full((1, 2, 7), float("nan")), 2, 1), "context: holds NaN"),
        (lambda m: m.sample(context_at([0, 0]), 0, 1), "horizon 0"),
        (lambda m: m.sample(context_at([0, 0])[:0], 1, 1), "context: a batch of 0"),
        (lambda m: m.energy(torch.zeros(1, 2, 7)), r"window: shape \(1, 2, 7\).*\(batch, 3, 7\)"),
    ],
)
def test_wrong_shapes_and_values_are_named(models, call, message):
    with pytest.raises(InputError, match=message):
        call(models["ebm", "states"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkConfig(coordinates="turns"), "coordinates 'turns'; accepted are turn, change, state"),
        (lambda: NetworkConfig(context_noise=float("nan")), "context noise: nan"),
        (lambda: dataclasses.replace(EBM, start_noise=-0.3), r"start noise: -0\.3"),
        (lambda: dataclasses.replace(EBM, confinement=-1.0), r"confinement: -1\.0"),
        (
            lambda: levels(denoising=DenoisingConfig(sigma_max=2.0)),
            "annealing: noise levels 0.02 to 5, .* 2;",
        ),
        (lambda: levels(annealing=AnnealConfig(sigma_min=0.01)), r"annealing: noise levels 0\.01 to 5"),
        (
            lambda: levels("combined", chain_start=AnnealConfig(sigma_max=9.0)),
            r"chain start: noise levels 0\.02 to 9",
        ),
    ],
)
def test_settings_that_would_train_something_else_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def levels(training="denoising", **settings):
    return dataclasses.replace(EBM, training=training, **settings).for_run(100)


def test_wrong_actions_are_named(models):
    model, context = models["ebm", "actions"], context_at([0, 0])
    with pytest.raises(InputError, match="was given none"):
        model.sample(context, 2, 1)
    with pytest.raises(InputError, match=r"actions: shape \(1, 1, 2, 5\); accepted is \(1, 1 or 3, 2, 2\)"):
        model.sample(context, 2, 3, actions=torch.zeros(1, 1, 2, 5))
    with pytest.raises(InputError, match="NaN"):
        model.sample(context, 2, 1, actions=torch.full((1, 1, 2, 2), float("nan")))


def test_the_baseline_has_no_energy(models):
    with pytest.raises(InputError, match="kind 'fc' has no energy"):
        models["fc", "states"].energy(torch.zeros(1, 3, 7))
