"""The deep belief net: layers on layers, ways up and down, fine-tuning, files."""

import dataclasses
import itertools

import pytest
import torch

from ebm_traj.boltzmann.classifier import (
    DBNClassifier,
    FineTuneConfig,
    error_rate,
    fine_tune,
    load_classifier,
    save_classifier,
)
from ebm_traj.boltzmann.dbn import DBN, DBNConfig, load_dbn, train_dbn
from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.boltzmann.training import RBMConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError

CONFIG = DBNConfig(
    hidden=(5, 4),
    layer=RBMConfig(learning=LearningConfig("cd"), updates=20, batch_size=10, checkpoint_every=10),
)
TUNING = FineTuneConfig(
    hidden_dropout=0.1,
    batch_size=20,
    trainer=TrainerConfig(iterations=40, warmup=5, log_every=10, checkpoint_every=20, validate_every=20),
)


def levels(rows=40, units=8, seed=0):
    return torch.rand(rows, units, generator=torch.Generator().manual_seed(seed))


def net(make, sizes=(6, 4, 3)):
    layers = [make(a, b, seed=i) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    return DBN(layers, [torch.zeros(rbm.visible_size, dtype=torch.float64) for rbm in layers])


def test_ways_up_and_down_go_through_every_layer(make):
    dbn = net(make)
    v = torch.rand(3, 6, dtype=torch.float64)
    first, second = dbn.rbms
    assert torch.equal(dbn.up(v), second.hidden_mean(first.hidden_mean(v)))
    assert torch.equal(dbn.up(v, 1), first.hidden_mean(v))
    h = torch.rand(3, 4, dtype=torch.float64)
    assert torch.equal(dbn.down(h), first.visible_mean(h))
    assert torch.equal(dbn.reconstruct(v), first.visible_mean(second.visible_mean(dbn.up(v))))


def test_generated_rows_have_the_top_machines_distribution(make, states):
    dbn = net(make, (3, 2, 2))
    first, top = dbn.rbms
    wanted = (-top(states(2))).softmax(0) @ first.visible_mean(states(2))
    drawn = dbn.generate(20_000, 40, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.mean(0), wanted, atol=0.01)
    start = torch.ones(5, 3, dtype=torch.float64)
    unmoved = dbn.generate(5, 0, torch.Generator().manual_seed(0), start)
    assert torch.allclose(unmoved, first.visible_mean(first.hidden_mean(start)))


def test_layers_learn_from_the_means_below_and_resume(tmp_path):
    whole = train_dbn(CONFIG, levels(), tmp_path / "a", validation=levels(10))
    assert whole.sizes == [8, 5, 4]
    train_dbn(CONFIG, levels(), tmp_path / "b", validation=levels(10))
    (tmp_path / "b" / "layer-1" / "training.safetensors").unlink()  # the second layer starts anew
    again = train_dbn(CONFIG, levels(), tmp_path / "b", validation=levels(10), resume=True)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    whole.save(tmp_path / "a", {})
    assert torch.equal(load_dbn(tmp_path / "a").up(levels()), whole.up(levels()))


def test_the_classifier_begins_with_the_nets_way_up(make):
    dbn = net(make)
    network = DBNClassifier.of(dbn, 3, TUNING).eval().double()
    v = torch.rand(4, 6, dtype=torch.float64)
    assert torch.allclose(network.body(v), dbn.up(v), atol=1e-6)
    assert not network(v).any()


def test_fine_tuning_learns_resumes_and_is_saved(tmp_path, make):
    x = levels(200)
    y = (x[:, 0] > x[:, 1]).long()
    x[:, 0] += x[:, 0] > x[:, 1]  # a gap between the classes
    loop = TrainerConfig(iterations=120, warmup=5, learning_rate=0.05, checkpoint_every=20, validate_every=60)
    settings = dataclasses.replace(TUNING, visible_dropout=0.0, trainer=loop)

    def start():
        return DBNClassifier.of(net(make, (8, 10, 6)), 2, settings)

    def run(folder, config, resume=False):
        return fine_tune(start(), (x, y), (x, y), config, tmp_path / folder, resume=resume)

    whole, report = run("a", settings)
    assert error_rate(whole, x, y) < 0.2 and report.kept_score == pytest.approx(error_rate(whole, x, y))
    with pytest.raises(KeyboardInterrupt):
        interrupt(settings, start(), (x, y), tmp_path / "b")
    again, _ = run("b", settings, resume=True)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    save_classifier(whole, tmp_path, {})
    assert torch.equal(load_classifier(tmp_path)(x), whole(x))


def interrupt(config, network, rows, folder):
    """Stop a run after its checkpoint at 20 iterations."""
    from ebm_traj.core import trainer

    step = trainer.Trainer.step

    def stopping(self):
        if self.iteration == 25:
            raise KeyboardInterrupt
        return step(self)

    trainer.Trainer.step = stopping
    try:
        fine_tune(network, rows, rows, config, folder)
    finally:
        trainer.Trainer.step = step


@pytest.mark.parametrize(
    "make_it, message",
    [
        (lambda: DBN([], []), "0 layers"),
        (lambda: DBN([RBM(3, 2), RBM(3, 2)], [torch.zeros(3)] * 2), "3 bernoulli units on 2 hidden"),
        (lambda: DBN([RBM(3, 2), RBM(2, 2, "gaussian")], [torch.zeros(3)] * 2), "binary ones"),
        (lambda: DBNConfig(hidden=()), "one or more sizes"),
        (lambda: FineTuneConfig(hidden_dropout=1.0), "hidden dropout: 1.0"),
        (lambda: FineTuneConfig(batch_size=0), "batch size: 0"),
        (lambda: load_dbn("no/such/folder"), "no file"),
        (lambda: load_classifier("no/such/folder"), "no file"),
    ],
)
def test_bad_input_is_refused(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it()
