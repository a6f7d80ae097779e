"""Training on pictures: objectives, validation, resuming, files of a run, the script."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.denoising import DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.model import BUFFER_FILE, ImageConfig, ImageModel, load_image_model
from ebm_traj.image.networks import LABEL, NO_LABEL, NetworkConfig
from ebm_traj.image.objectives import PictureContrastive, make_objective
from ebm_traj.image.sampling import even_labels
from ebm_traj.image.snapshots import moments
from ebm_traj.image.training import train_image
from ebm_traj.image.validation import ImageValidation, auroc, mixed, rotated, shuffled

SHAPE = (1, 8, 8)
UNET = NetworkConfig(channels=(4, 6), patch=1, mixing=1, embedding=8)
CONV = NetworkConfig(kind="conv", channels=(4, 6), dense=5)
CHAIN = LangevinConfig(steps=3, step_size=0.1, noise=0.01, clip=0.1)
CONTRASTIVE = ContrastiveConfig(batch_size=8, langevin=CHAIN, buffer_size=16, replay_fraction=0.75)
ANNEALING = AnnealConfig(steps=5, sigma_max=5.0)
DENOISING = ImageConfig(
    network=UNET,
    conditional=True,
    classification=0.1,
    denoising=DenoisingConfig(batch_size=8),
    annealing=ANNEALING,
)
CHAINS = ImageConfig(
    network=CONV, training="contrastive", contrastive=CONTRASTIVE, generation=CHAIN, conditional=True
)
COMBINED = dataclasses.replace(
    DENOISING, training="combined", contrastive=CONTRASTIVE, contrastive_weight=0.1, contrastive_start=2
)
TRAINER = TrainerConfig(
    iterations=8,
    warmup=1,
    log_every=2,
    checkpoint_every=3,
    validate_every=4,
    ema_decay=0.5,
    learning_rate=1e-3,
)


def of(seed):
    return torch.Generator().manual_seed(seed)


def make(config, classes=3):
    torch.manual_seed(0)
    return ImageModel(config, SHAPE, classes, std=0.5)


def batch(rows, seed=0, classes=3):
    generator = of(seed)
    x = torch.rand(rows, *SHAPE, generator=generator) * 2 - 1
    return Batch(x, {LABEL: torch.randint(classes, (rows,), generator=generator)})


# --- objectives -------------------------------------------------------------------------------------------


def test_without_classes_the_loss_is_the_cores_but_for_its_weight():
    config = dataclasses.replace(DENOISING, conditional=False, classification=0.0)
    model = make(config)
    mine, figures = make_objective(model)(batch(8), of(1))
    core = DenoisingScoreMatching(model.energy, config.denoising)
    _, expected = core(Batch(batch(8).x, {}), of(1))
    torch.testing.assert_close(figures["denoising_error"], expected["denoising_error"])
    sigma = config.denoising.draw(8, torch.device("cpu"), of(1))
    assert mine > 0 and sigma.std() > 0


def test_gaussian_pictures_are_denoised_no_worse_by_any_weights_than_by_none():
    # the data's own quadratic energy is optimal for them: the loss has nothing to gain
    config = dataclasses.replace(DENOISING, conditional=False, classification=0.0)
    model = make(config)
    torch.nn.init.zeros_(model.energy.net.last.weight)
    x = 0.5 * torch.randn(4000, *SHAPE, generator=of(2))
    objective = make_objective(model)
    loss, _ = objective(Batch(x, {}), of(1))
    # E |D - y|^2 = s^2 d^2 / (s^2 + d^2), and the weight is one over it
    assert float(loss.detach()) == pytest.approx(1.0, abs=0.02)


def test_withheld_classes_do_not_matter_and_given_ones_do():
    model = make(dataclasses.replace(DENOISING, label_dropout=1.0, classification=0.0))
    objective, rows = make_objective(model), batch(8)
    other = Batch(rows.x, {LABEL: (rows.condition[LABEL] + 1) % 3})
    assert torch.equal(objective(rows, of(1))[0], objective(other, of(1))[0])
    objective.dropout = 0.0
    assert not torch.equal(objective(rows, of(1))[0], objective(other, of(1))[0])


def test_rows_of_unknown_class_do_not_enter_the_cross_entropy():
    model = make(DENOISING)
    objective, rows = make_objective(model), batch(8)
    unknown = Batch(rows.x, {LABEL: torch.full((8,), NO_LABEL)})
    loss, figures = objective(unknown, of(1))
    assert figures["cross_entropy"] == 0 and bool(torch.isfinite(loss))


def test_bfloat16_is_near_and_leaves_weights_in_float32():
    model = make(DENOISING)
    exact, _ = make_objective(model)(batch(8), of(1))
    model.config = dataclasses.replace(DENOISING, bfloat16=True)
    near, _ = make_objective(model)(batch(8), of(1))
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.05)
    near.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_replayed_chains_keep_their_class_and_the_buffer_fills_with_fresh_ones():
    class Watching(torch.nn.Module):
        """An energy whose chains drift to their class's own grey."""

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(()))
            self.learned = self

        def forward(self, x, condition):
            grey = condition[LABEL].float()[:, None] / 4
            return self.w * (x.flatten(1) - grey).square().sum(1)

        def bind(self, condition):
            return lambda x: self(x, condition)

    settings = dataclasses.replace(CONTRASTIVE, langevin=LangevinConfig(steps=20, step_size=0.2, noise=0.0))
    objective = PictureContrastive(Watching(), SHAPE, settings)
    for seed in range(4):
        objective(batch(8, seed), of(seed))
    rows = objective.buffer.rows
    assert len(objective.buffer) == 8 + 3 * 2
    filled = slice(0, len(objective.buffer))
    expected = rows[LABEL][filled].float() / 4
    torch.testing.assert_close(rows["chain"][filled].mean((1, 2, 3)), expected, atol=1e-3, rtol=0)


def test_a_step_takes_the_gradient_of_data_minus_chains():
    model = make(dataclasses.replace(CHAINS, conditional=False))
    objective = make_objective(model)
    settings = dataclasses.replace(CONTRASTIVE, energy_regularisation=0.0)
    objective.config = settings
    rows = Batch(batch(8).x, {})
    loss, _ = objective(rows, of(3))
    loss.backward()
    found = model.energy.last.weight.grad.clone()
    model.zero_grad()
    chains = objective.buffer.rows["chain"][:8]
    (model.energy(rows.x).mean() - model.energy(chains).mean()).backward()
    torch.testing.assert_close(found, model.energy.last.weight.grad)


@pytest.mark.parametrize("config", [CHAINS, COMBINED])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_entropy_of_pictures_is_estimated_whatever_the_condition(config, conditional):
    settings = dataclasses.replace(CONTRASTIVE, kl=1.0, entropy=0.3)
    config = dataclasses.replace(
        config, conditional=conditional, classification=0.0, contrastive=settings, contrastive_start=0
    )
    objective = make_objective(make(config, classes=3 if conditional else 0))
    for seed in range(3):
        given = batch(8, seed)
        loss, figures = objective(given if conditional else Batch(given.x, {}), of(seed))
    assert bool(torch.isfinite(loss))
    assert any(name.endswith("nearest_distance") for name in figures)


def test_gradients_reach_the_weights_through_the_last_step_only_where_asked():
    settings = dataclasses.replace(CONTRASTIVE, kl=1.0, entropy=0.3, langevin=LangevinConfig(steps=3))
    objective = PictureContrastive(make(CHAINS).energy, SHAPE, settings)
    for seed in range(2):
        loss, figures = objective(batch(8, seed), of(seed))
    loss.backward()
    assert {"slope_samples", "nearest_distance"} <= set(figures)
    assert float(objective.buffer.rows["chain"].abs().max()) <= 1.0


def test_spectral_vectors_move_once_a_step_and_not_with_the_chain():
    network = NetworkConfig(kind="residual", channels=(4, 4), downsample=(0,), spectral_norm=True)
    model = make(dataclasses.replace(CHAINS, network=network, conditional=False))
    model.train()
    twin = make(dataclasses.replace(CHAINS, network=network, conditional=False))
    before = [b.clone() for b in model.energy.buffers()]
    model.sample(2, generator=of(0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.energy.buffers(), strict=True))
    make_objective(model)(Batch(batch(8).x, {}), of(0))
    from ebm_traj.image.spectral import power_iterate

    power_iterate(twin.energy)
    for mine, once in zip(model.energy.buffers(), twin.energy.buffers(), strict=True):
        assert torch.equal(mine, once)


def test_augmentation_changes_a_share_of_replayed_chains_alone():
    still = dataclasses.replace(CONTRASTIVE, langevin=LangevinConfig(steps=0))
    objective = PictureContrastive(
        make(CHAINS).energy, SHAPE, still, augment=lambda x, g: torch.full_like(x, 7.0), bounds=None
    )
    objective(batch(8, 0), of(0))
    assert float(objective.buffer.rows["chain"].max()) < 2
    objective(batch(8, 1), of(1))
    assert int((objective.buffer.rows["chain"][:, 0, 0, 0] == 7.0).sum()) == 6


def test_bounded_pixels_refuse_metropolis():
    chain = LangevinConfig(steps=3, metropolis=True)
    with pytest.raises(InputError, match="bounds"):
        PictureContrastive(make(CHAINS).energy, SHAPE, dataclasses.replace(CONTRASTIVE, langevin=chain))


# --- validation -------------------------------------------------------------------------------------------


def test_auroc_counts_pairs():
    low, high = torch.tensor([0.0, 1.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 5.0])
    pairs = [(1.0 if b > a else 0.5 if b == a else 0.0) for a in low.tolist() for b in high.tolist()]
    assert auroc(low, high) == pytest.approx(sum(pairs) / 12)
    assert auroc(low, low) == 0.5


def test_corruptions_keep_grey_levels_and_change_pictures():
    x = batch(4).x
    for change in (rotated, shuffled):
        assert torch.equal(change(x, 0).flatten(1).sort(1)[0], x.flatten(1).sort(1)[0])
        assert not torch.equal(change(x, 0), x)
    torch.testing.assert_close(mixed(x, 0).mean(), x.mean())


def test_validation_is_the_same_each_time_and_knows_noise_from_data():
    model = make(dataclasses.replace(DENOISING, conditional=False, classification=0.0))
    x = (0.1 * torch.randn(64, *SHAPE, generator=of(0))).clamp(-1, 1)
    validation = ImageValidation(x)
    figures = validation(model)
    assert figures == validation(model)
    assert figures["auroc_noise"] == 1.0 and figures["score"] == figures["denoising_loss"]
    chains = ImageValidation(x, torch.zeros(64, dtype=torch.int64))(make(CHAINS))
    assert chains["score"] == 1 - chains["auroc"] and 0 <= chains["accuracy"] <= 1


def test_moments_hold_first_and_last():
    assert moments(3) == [0, 1, 2]
    many = moments(61)
    assert many[0] == 0 and many[-1] == 60 and len(many) == 10


# --- runs -------------------------------------------------------------------------------------------------


def run(config, out, settings=TRAINER, **more):
    data = open_pictures("digits", "train"), open_pictures("digits", "validation")
    return train_image(config, *data, settings, out, snapshots=6, **more)


@pytest.mark.parametrize("config", [DENOISING, CHAINS, COMBINED])
def test_a_run_leaves_model_curves_and_pictures(config, tmp_path):
    model = run(config, tmp_path / "run")
    loaded = load_image_model(tmp_path / "run")
    assert loaded.card == model.card
    card = loaded.card
    assert card["iterations"] == 8 and card["cpu_seconds"] > 0 and card["parameters"] > 0
    x = torch.zeros(2, *SHAPE)
    labels = torch.tensor([1, -1])
    assert torch.equal(loaded.energy_at(None, labels)(x), model.energy_at(None, labels)(x))
    for name in ("curves.png", "metrics.csv", "samples/0000004.png", "samples/0000008.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert (tmp_path / "run" / BUFFER_FILE).exists() == (not loaded.has_levels)


@pytest.mark.parametrize("config", [CHAINS, COMBINED])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(config, tmp_path, monkeypatch):
    whole = run(config, tmp_path / "whole")
    from ebm_traj.core.trainer import Trainer

    step, calls = Trainer.step, []

    def dies(self):
        calls.append(self.iteration)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "cut")
    monkeypatch.setattr(Trainer, "step", step)
    resumed = run(config, tmp_path / "cut", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, rows in whole.chains.items():
        assert torch.equal(rows, resumed.chains[name])
    with pytest.raises(InputError, match="finished"):
        run(config, tmp_path / "cut", resume=True)


def test_other_settings_are_refused_on_resuming_and_folders_are_kept(tmp_path):
    run(DENOISING, tmp_path / "run")
    with pytest.raises(InputError, match="exists already"):
        run(DENOISING, tmp_path / "run")
    (tmp_path / "run" / "image.json").unlink()
    with pytest.raises(InputError, match=r"settings.learning_rate is"):
        run(DENOISING, tmp_path / "run", dataclasses.replace(TRAINER, learning_rate=2e-3), resume=True)


def test_best_weights_are_those_of_the_lowest_score(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(
        "ebm_traj.image.validation.ImageValidation.__call__", lambda self, model: {"score": next(scores)}
    )
    model = run(DENOISING, tmp_path / "run", dataclasses.replace(TRAINER, validate_every=2))
    assert model.card["kept_iteration"] == 4 and model.card["validation_score"] == 1.0


# --- the script -------------------------------------------------------------------------------------------


def test_the_script_trains_on_digits_without_a_preset(tmp_path, monkeypatch, capsys, call_script):
    monkeypatch.chdir(tmp_path)
    tiny = "--iterations 4 --validate-every 4 --snapshots 4 --config.network.channels 4 6"
    call_script("train_image", "--device", "cpu", *tiny.split())
    assert "runs/digits: 4 iterations" in capsys.readouterr().out
    model = load_image_model(tmp_path / "runs" / "digits")
    assert model.num_classes == 10 and model.config.network.channels == (4, 6)
    settings = json.loads((tmp_path / "runs" / "digits" / "settings.json").read_text())
    assert settings["data"][0] == "digits"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--preset", "imagenet64"), "accepted are digits, mnist"),
        (("--data", "nowhere"), "no such file"),
        (("--validation", "0"), "--validation 0"),
        (("--config.network.kind", "conv"), "network kind"),
    ],
)
def test_bad_arguments_are_one_line(args, words, tmp_path, monkeypatch, capsys, call_script):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call_script("train_image", "--device", "cpu", *args)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_training_goes_on_from_a_trained_model_of_the_same_network(tmp_path):
    first = run(DENOISING, tmp_path / "first")
    still = dataclasses.replace(TRAINER, iterations=1, learning_rate=1e-12)
    second = run(DENOISING, tmp_path / "second", still, begin=tmp_path / "first")
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)
    assert second.card["begun_at"] == first.card
    with pytest.raises(InputError, match="its network is"):
        run(CHAINS, tmp_path / "third", begin=tmp_path / "first")
    assert not (tmp_path / "third").exists()


def test_pictures_without_classes_are_learnt_without(call_script, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "bare.npz", x=x)
    small = "--iterations 2 --validate-every 2 --snapshots 2 --config.network.channels 4 6"
    call_script("train_image", "--device", "cpu", "--data", "bare.npz", "--out", "run", *small.split())
    assert "bare has no classes: conditional and classification are off" in capsys.readouterr().err
    assert not load_image_model("run").config.conditional


def test_classes_that_were_left_out_are_asked_of_nobody(tmp_path):
    sets = [open_pictures("digits", split).of_classes([2, 5]) for split in ("train", "validation")]
    model = train_image(DENOISING, *sets, TRAINER, tmp_path / "run", snapshots=6)
    assert model.num_classes == 10 and model.card["classes"] == [2, 5]
    assert even_labels(load_image_model(tmp_path / "run"), 5).tolist() == [2, 5, 2, 5, 2]
