"""The discriminator as an energy, and generators as samplers of energies."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ebm_traj.core.energy import Energy, FunctionEnergy
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.ebgan.amortised import AmortisedConfig, AmortisedContrastive, GeneratorProposal, nearest_entropy
from ebm_traj.ebgan.losses import pull_away
from ebm_traj.ebgan.model import AdversarialConfig, AdversarialModel, NetworkConfig
from ebm_traj.ebgan.refinement import RefinementConfig, refine
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier, ClassifierConfig


class Quartic(Energy):
    """A small energy with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x, condition=None):
        return self.layer(x).square().square().sum(1)


ROWS = {"row": torch.zeros(6)}


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("entropy", ["nearest", "pull-away", "none"])
def test_the_generators_gradient_is_that_of_energy_less_entropy_and_none_reaches_the_energy(entropy):
    torch.manual_seed(0)
    energy, generator = Quartic().double(), nn.Linear(2, 3).double()
    proposal = GeneratorProposal(generator, 2, energy, entropy=entropy, weight=0.7)
    noise = torch.empty(6, 2).normal_(generator=seeded())
    proposal.draw = lambda count, source=None: generator(noise.double())  # type: ignore[method-assign]
    x = proposal.sample(ROWS)
    assert not x.requires_grad
    loss = proposal.loss(x, ROWS)
    assert loss is not None
    loss.backward()
    assert all(p.grad is None for p in energy.parameters())
    found = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
    generator.zero_grad()
    live = generator(noise.double())
    expected = energy(live).mean()
    if entropy == "nearest":
        expected = expected - 0.7 * nearest_entropy(live)
    elif entropy == "pull-away":
        expected = expected + 0.7 * pull_away(live - live.mean(0).detach())
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    expected.backward()
    for grad, parameter in zip(found, generator.parameters(), strict=True):
        assert parameter.grad is not None and torch.allclose(grad, parameter.grad, rtol=1e-7)
    assert proposal.loss(x, ROWS) is None  # what was drawn is used once
    with pytest.raises(InputError, match="needs a condition"):
        proposal.sample({})


def test_the_energys_gradient_is_that_of_contrastive_divergence():
    torch.manual_seed(0)
    energy, generator = Quartic(), nn.Linear(2, 3)
    objective = AmortisedContrastive(energy, generator, 2, AmortisedConfig(6, energy_regularisation=0.3))
    data = torch.randn(6, 3)
    loss, figures = objective(Batch(data, ROWS), seeded(4))
    loss.backward()
    found = [p.grad.clone() for p in energy.parameters() if p.grad is not None]
    energy.zero_grad()
    with torch.no_grad():
        fake = generator(torch.empty(6, 2).normal_(generator=seeded(4)))
    positive, negative = energy(data), energy(fake)
    expected = (positive - negative).mean() + 0.3 * (positive**2 + negative**2).mean()
    assert float(figures["energy_samples"]) == pytest.approx(float(negative.detach().mean()), rel=1e-5)
    expected.backward()
    for grad, parameter in zip(found, energy.parameters(), strict=True):
        assert parameter.grad is not None and torch.allclose(grad, parameter.grad, rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in generator.parameters())
    # shared weights stand once in a checkpoint, and a copy (as EMA makes) has an energy of its own
    assert not any("_energy" in name for name in objective.state_dict())
    twin = copy.deepcopy(objective)
    assert twin.proposal._energy[0] is twin.energy is not energy  # type: ignore[union-attr]
    assert objective.gradients == 2


def test_a_linear_generator_finds_the_width_that_balances_energy_and_entropy():
    """Of |x|^2 / 2 in d dimensions less w mean log distance: d s^2 / 2 - w log s, least at s^2 = w / d."""
    energy = FunctionEnergy(lambda x: 0.5 * x.square().sum(1))
    generator = nn.Linear(2, 2)
    proposal = GeneratorProposal(generator, 2, energy, weight=2.0)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.05)
    source, rows = seeded(1), {"row": torch.zeros(128)}
    with torch.no_grad():
        generator.weight.copy_(torch.tensor([[0.2, 0.1], [-0.1, 0.3]]))
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        proposal.sample(rows, source)
        loss = proposal.loss(torch.empty(0), rows)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = proposal.draw(4000, source).detach()
    covariance = torch.cov(x.T)
    assert covariance.diagonal().sqrt().tolist() == pytest.approx([1, 1], abs=0.12)
    assert abs(float(covariance[0, 1])) < 0.15


def test_nearest_entropy_is_the_mean_log_distance():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.5]], dtype=torch.float64)
    per_root = torch.tensor([5.0, 0.5, 0.5], dtype=torch.float64) / 2**0.5
    assert float(nearest_entropy(x)) == pytest.approx(float(per_root.log().mean()), abs=1e-5)


def test_refinement_goes_downhill_and_leaves_the_model_as_it_was():
    network = NetworkConfig(latent=3, width_generator=8, width_discriminator=6)
    model = AdversarialModel(AdversarialConfig(network=network), (1, 4, 4)).eval()
    start = torch.rand(5, 1, 4, 4, generator=seeded()) - 0.5
    x = refine(model.energy, start, RefinementConfig.chain(10, 0.05, 0.0))
    assert x.shape == start.shape and float(x.abs().max()) <= 1
    assert (model.energy(x) < model.energy(start)).all()
    assert all(p.requires_grad and p.grad is None for p in model.energy.parameters())
    assert RefinementConfig.chain(3, 0.5, 0.01) == LangevinConfig(3, 0.5, temperature=0.01)
    with pytest.raises(InputError, match="temperatures"):
        RefinementConfig(temperatures=(-1.0,))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    Classifier((1, 8, 8), 10, ClassifierConfig(width=2, features=8)).save(folder)
    return folder


def test_the_scripts_of_both_studies(
    tmp_path: Path, classifier: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    judged = ["--classifier", str(classifier)]
    network = NetworkConfig(latent=3, width_generator=8, width_discriminator=6)
    AdversarialModel(AdversarialConfig(network=network), (1, 8, 8)).eval().save(tmp_path / "model")
    small = ["--config.steps", "2", "--config.step-sizes", "0.1", "--config.samples", "50"]
    given = ["--model", str(tmp_path / "model"), *judged, *small, "--out", str(tmp_path / "refined")]
    call_script("ebgan_refine", *given)
    assert "2 steps of 0.1" in capsys.readouterr().out
    found = json.loads((tmp_path / "refined" / "refinement.json").read_text())
    assert [row["samples"] for row in found["test"]] == ["generator", "chain", "test pictures"]
    assert len(found["validation"]) == 1 + 3 and (tmp_path / "refined" / "refinement.png").is_file()
    tiny = ["--cpu-seconds", "0.05", "--channels", "4", "4", "--batch-size", "12", "--replay-steps", "2"]
    tiny += ["--buffer-size", "64", "--generator-channels", "4", "--chain-steps", "2", "--samples", "30"]
    call_script("ebgan_samplers", *judged, *tiny, "--out", str(tmp_path / "samplers"))
    assert "| generator + chain | generator + 2 steps |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "samplers" / "samplers.json").read_text())["rows"]
    assert {row["way"] for row in rows} == {"replay", "generator", "generator + chain", "pictures themselves"}
    for name, arguments, message in (
        ("ebgan_refine", given, "exists already; give another"),
        ("ebgan_refine", [*given[:-1], str(tmp_path / "o"), "--size", "16"], "of pictures (1, 8, 8)"),
        ("ebgan_samplers", [*judged, "--out", str(tmp_path / "p"), "--cpu-seconds", "0"], "cpu seconds: 0"),
        (
            "ebgan_samplers",
            [*judged, "--out", str(tmp_path / "p"), "--ways", "replay", "replay"],
            "different",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            call_script(name, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
