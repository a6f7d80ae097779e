"""Training: resume equals uninterrupted, divergence goes back, the script, and that something is learned."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ebm_traj.core.checkpoint import load_tensors
from ebm_traj.core.logs import read_metrics
from ebm_traj.datasets.pictures import PictureSet, open_pictures
from ebm_traj.ebgan.model import AdversarialConfig, AdversarialModel, NetworkConfig, load_adversarial
from ebm_traj.ebgan.step import OptimiserConfig
from ebm_traj.ebgan.trainer import AdversarialSettings, AdversarialTrainer
from ebm_traj.ebgan.training import train_adversarial
from ebm_traj.errors import InputError, RunError
from ebm_traj.image.pictures import batches, to_tensor

NETWORK = NetworkConfig(latent=8, width_generator=32, width_discriminator=24, dropout=True)
CONFIG = AdversarialConfig(margin_decay="linear", network=NETWORK)
SETTINGS = AdversarialSettings(
    iterations=12, batch_size=16, ema_decay=0.9, log_every=2, checkpoint_every=5, grid_every=6
)


@pytest.fixture(scope="module")
def digits() -> PictureSet:
    return open_pictures("digits", "train")


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("optimiser", [OptimiserConfig(), OptimiserConfig(0.01, "sgd", "adam")])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, digits: PictureSet, optimiser: OptimiserConfig, monkeypatch: pytest.MonkeyPatch
):
    whole = train_adversarial(digits, CONFIG, optimiser, SETTINGS, tmp_path / "whole")
    one = AdversarialTrainer._one

    def killed(self: AdversarialTrainer) -> dict[str, torch.Tensor]:
        if self.iteration == 8:
            raise Interrupted
        return one(self)

    monkeypatch.setattr(AdversarialTrainer, "_one", killed)
    with pytest.raises(Interrupted):
        train_adversarial(digits, CONFIG, optimiser, SETTINGS, tmp_path / "cut")
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = train_adversarial(digits, CONFIG, optimiser, SETTINGS, tmp_path / "cut", resume=True)
    for name, values in whole.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "cut")]
    assert [row["iteration"] for row in rows[1]] == [2, 4, 6, 8, 10, 12] and rows[0] == rows[1]
    drawn = [(tmp_path / name / "samples" / "0000012.png").read_bytes() for name in ("whole", "cut")]
    assert drawn[0] == drawn[1]
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(InputError, match=r"settings.seed is 1 now and was 0"):
        train_adversarial(digits, CONFIG, optimiser, other, tmp_path / "cut", resume=True)


def test_a_divergence_goes_back_to_the_last_good_weights(
    tmp_path: Path, digits: PictureSet, monkeypatch: pytest.MonkeyPatch
):
    one, spoilt = AdversarialTrainer._one, []

    def once(self: AdversarialTrainer) -> dict[str, torch.Tensor]:
        figures = one(self)
        if self.iteration == 8 and not spoilt:
            spoilt.append(self.iteration)
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.fill_(float("nan"))
            return figures | {"energy_data": torch.tensor(float("nan"))}
        return figures

    monkeypatch.setattr(AdversarialTrainer, "_one", once)
    model = train_adversarial(digits, CONFIG, OptimiserConfig(), SETTINGS, tmp_path / "run")
    assert all(bool(values.isfinite().all()) for values in model.state_dict().values())
    assert model.card["restarts"] == 1
    assert (
        (tmp_path / "run" / "restarts.log")
        .read_text()
        .startswith("iteration 8: energy_data is nan; back to 6")
    )
    monkeypatch.setattr(
        AdversarialTrainer, "_one", lambda self: one(self) | {"energy_data": torch.tensor(1e9)}
    )
    with pytest.raises(RunError, match="diverged 6 times"):
        train_adversarial(digits, CONFIG, OptimiserConfig(), SETTINGS, tmp_path / "bad")


def test_the_discriminator_learns_data_from_noise_and_its_weights_wait_in_the_generators_turn(
    digits: PictureSet, tmp_path: Path
):
    model = AdversarialModel(AdversarialConfig(network=NETWORK), digits.shape, seed=0)
    trainer = AdversarialTrainer(
        model, batches(digits, 64), OptimiserConfig(), AdversarialSettings(), tmp_path, {}
    )
    noise = torch.rand(64, *digits.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for _ in range(100):
        trainer._one()
    model.settle(to_tensor(digits.x[:512]), torch.Generator().manual_seed(0))
    model.eval()
    data, far = (float(model.energy(x).detach().mean()) for x in (to_tensor(digits.x[512:700]), noise))
    assert data < 0.8 * far
    before = [p.detach().clone() for p in model.energy.parameters()]
    model.energy.requires_grad_(False)
    loss, _ = model.generator_loss(model.generator(model.noise(8, torch.Generator().manual_seed(1))))
    loss.backward()
    assert all(p.grad is not None for p in model.generator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.energy.parameters(), strict=True))


def test_the_script_trains_refuses_and_overwrites(
    tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    small = ["--iterations", "4", "--batch-size", "8", "--network.width-generator", "16"]
    call_script("train_ebgan", "--out", str(out), *small, "--loss", "gan")
    assert "gan, 4 iterations of 8" in capsys.readouterr().out
    assert load_adversarial(out).config.loss == "gan"
    tensors, meta = load_tensors(out / "training.safetensors")
    assert meta["iteration"] == 4 and any(name.startswith("discriminator.") for name in tensors)
    for arguments, message in (
        ([], "exists already; give another"),
        (["--resume"], "is finished"),
        (["--overwrite", "--network.kind", "conv", "--size", "9"], "pictures of 9 x 9"),
        (["--overwrite", "--score-every", "2"], "needs a classifier"),
        (["--overwrite", "--data", "nowhere"], "no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            call_script("train_ebgan", "--out", str(out), *small, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert load_adversarial(out).config.loss == "gan"  # what was refused wrote nothing
    call_script("train_ebgan", "--out", str(out), *small, "--overwrite")
    assert load_adversarial(out).config.loss == "ebgan" and load_adversarial(out).sample(2).shape == (
        2,
        1,
        8,
        8,
    )
