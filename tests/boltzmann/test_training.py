"""Training on rows: resume equals uninterrupted, files, and what is refused."""

import dataclasses

import pytest
import torch

from ebm_traj.boltzmann.ais import AISConfig
from ebm_traj.boltzmann.data import binarise, held_out, intensities
from ebm_traj.boltzmann.files import load_rbm
from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.training import RBMConfig, RBMTrainer
from ebm_traj.core.logs import read_metrics
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError, RunError

CONFIG = RBMConfig(
    hidden=6,
    learning=LearningConfig(chains=10, momentum=0.5),
    updates=30,
    batch_size=10,
    log_every=10,
    checkpoint_every=10,
    evaluate_every=15,
    evaluation=AISConfig(counts=(5,), ends=(1.0,), chains=5),
)


def levels(rows=40, units=8, seed=0):
    return torch.rand(rows, units, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("algorithm", ["cd", "pcd", "pt"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, algorithm):
    learning = dataclasses.replace(CONFIG.learning, algorithm=algorithm, temperatures=3)
    config = dataclasses.replace(CONFIG, learning=learning)
    held = levels(10, seed=1)
    whole = RBMTrainer(config, levels(), tmp_path / "a", validation=held).fit()
    stopped = RBMTrainer(config, levels(), tmp_path / "b", validation=held)
    (tmp_path / "b").mkdir()
    for _ in range(20):
        stopped.step()
    stopped.save()
    for _ in range(5):  # lost when the run is killed
        stopped.step()
    again = RBMTrainer(config, levels(), tmp_path / "b", validation=held)
    again.resume()
    assert again.update == 20
    found = again.fit()
    for one, other in zip(whole.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)
    rows = [read_metrics(tmp_path / name / "metrics.csv")[-1] for name in "ab"]
    assert rows[0]["held_out_log_likelihood"] == rows[1]["held_out_log_likelihood"]


def test_the_file_gives_the_machine_back(tmp_path):
    trainer = RBMTrainer(CONFIG, levels(), tmp_path, identity={"data": "noise"})
    rbm = trainer.fit()
    again, base, card = load_rbm(tmp_path)
    v = held_out(levels(), "stochastic")
    assert torch.equal(again(v), rbm(v)) and torch.equal(base, trainer.base)
    assert card["data"] == "noise" and card["updates"] == 30
    with pytest.raises(InputError, match="no file"):
        load_rbm(tmp_path / "nothing")


def test_resuming_with_other_settings_is_refused(tmp_path):
    RBMTrainer(CONFIG, levels(), tmp_path).fit()
    other = RBMTrainer(dataclasses.replace(CONFIG, hidden=7), levels(), tmp_path)
    with pytest.raises(InputError, match=r"config.hidden is 7 now and was"):
        other.resume()


def test_a_divergence_is_told(tmp_path):
    trainer = RBMTrainer(dataclasses.replace(CONFIG, evaluate_every=0), levels(), tmp_path)
    trainer.rbm.weights.fill_(float("nan"))
    with pytest.raises(RunError, match="lower learning rate"):
        trainer.fit()


def test_first_biases_give_the_datas_means_or_are_zero(tmp_path):
    rows = levels()
    trainers = [
        RBMTrainer(dataclasses.replace(CONFIG, first_biases=kind), rows, tmp_path)
        for kind in ("data", "zero")
    ]
    torch.testing.assert_close(trainers[0].rbm.visible_bias.sigmoid(), rows.mean(0))
    assert not trainers[1].rbm.visible_bias.any()
    assert torch.equal(trainers[0].rbm.weights, trainers[1].rbm.weights)


def test_rates_fall_as_told():
    rates = {
        schedule: [dataclasses.replace(CONFIG, schedule=schedule).rate(update) for update in (0, 15, 30)]
        for schedule in ("linear", "exponential", "constant")
    }
    assert rates["linear"] == pytest.approx([0.05, 0.05 * 0.505, 0.0005])
    assert rates["exponential"] == pytest.approx([0.05, 0.005, 0.0005])
    assert rates["constant"] == [0.05] * 3


def test_gaussian_units_learn_the_datas_spread_and_means(tmp_path):
    rows = 2 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 0.9 * rows[:, 0] + 0.44 * rows[:, 1]
    learning = LearningConfig("cd", steps=2)
    config = RBMConfig(
        hidden=12, units="gaussian", binarisation="none", learning=learning, updates=600, learning_rate=0.02
    )
    rbm = RBMTrainer(config, rows, tmp_path).fit()
    v = rows[:1].expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        v = rbm.sample_visible(rbm.sample_hidden(v, generator), generator)
    assert torch.allclose(v.mean(0), rows.mean(0), atol=0.3)
    assert float(torch.corrcoef(v.T)[0, 1]) > 0.2 > abs(float(torch.corrcoef(v.T)[2, 3]))


def test_binarisations():
    grey = torch.tensor([[0.0, 0.5, 1.0]]).repeat(4000, 1)
    drawn = held_out(grey, "stochastic")
    assert torch.equal(drawn, held_out(grey, "stochastic"))
    assert float(drawn[:, 1].mean()) == pytest.approx(0.5, abs=0.04)
    assert not drawn[:, 0].any() and drawn[:, 2].all()
    assert binarise(grey[:1], "threshold").tolist() == [[0.0, 1.0, 1.0]]
    assert binarise(grey, "none") is grey
    digits = intensities(open_pictures("digits", "test"))
    assert digits.shape[1] == 64 and digits.min() == 0 and digits.max() <= 1


@pytest.mark.parametrize(
    "rows, settings, message",
    [
        (levels() * 2, {}, "binary units accept 0 to 1"),
        (levels()[0], {}, "accepted is \\(rows, visible units\\)"),
        (levels() * torch.nan, {}, "NaN"),
        (levels(), {"units": "gaussian"}, "accepted is none"),
        (levels(), {"schedule": "cosine"}, "linear, exponential, constant"),
        (levels(), {"first_biases": "random"}, "data, zero"),
        (levels(), {"binarisation": "dither"}, "stochastic, threshold, none"),
        (levels(), {"updates": 0}, "updates: 0"),
        (levels(), {"learning_rate": 0.0}, "learning rate: 0.0"),
        (levels(), {"final_learning_rate": 0.0}, "final learning rate: 0.0"),
    ],
)
def test_bad_rows_and_settings_are_refused(tmp_path, rows, settings, message):
    with pytest.raises(InputError, match=message):
        RBMTrainer(dataclasses.replace(CONFIG, **settings), rows, tmp_path)
