"""Recorded training steps: replays take the ordinary steps, on a stand-in for a CUDA graph and on a GPU."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from ebm_traj.benchmarks.train import Data, StepSettings, recorded_step
from ebm_traj.core import langevin as langevin_module
from ebm_traj.core import triton_chain
from ebm_traj.core.backends import recording
from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import Chain, LangevinConfig
from ebm_traj.core.objectives import Batch, Objective, Regression
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.recorded_step import WARM_UP, RecordedStep
from ebm_traj.core.trainer import Trainer, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.trajectory import training as training_module
from ebm_traj.trajectory.presets import CONFIGS
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train

spec = importlib.util.spec_from_file_location("tape", Path(__file__).with_name("tape.py"))
assert spec is not None and spec.loader is not None
tape = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tape)
capture = tape.capture

CONFIG = TrainerConfig(iterations=40, log_every=5, checkpoint_every=10, warmup=5, ema_decay=0.9)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]


class SmallEnergy(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, condition=None):
        return self.net(torch.cat([x, condition["c"]], -1)).squeeze(-1) + 0.5 * x.square().sum(-1)


def batches(iteration, generator):
    c = torch.randn(20, 1, generator=generator, device=generator.device)
    return Batch(torch.cat([c, -c], -1), {"c": c})


def contrastive(langevin=LangevinConfig(steps=3), **more):  # noqa: B008
    config = ContrastiveConfig(40, langevin, buffer_size=100, replay_fraction=0.5, **more)
    return ContrastiveDivergence(
        SmallEnergy(),
        NoiseProposal(lambda condition: condition["c"].new_zeros(len(condition["c"]), 2), 1.0),
        config,
    )


class Reads(Regression):
    """Waits for the device in each step."""

    def forward(self, batch, generator):
        loss, figures = super().forward(batch, generator)
        return loss * (1.0 if float(loss.detach()) >= 0 else 2.0), figures


def regression(kind=Regression):
    net = nn.Linear(1, 2)
    return kind(lambda condition: net(condition["c"]), 20), net


def recorder(device, inside):
    return RecordedStep(torch.device(device), inside=inside, capture=capture if device == "cpu" else None)


def make(folder, objective, recorded=None, config=CONFIG, device="cpu"):
    folder.mkdir(exist_ok=True)
    return Trainer(
        objective, batches, config, folder, make_fabric(device), {"data": "toy"}, recorder=recorded
    )


def both(tmp_path, build, device="cpu", inside=False, config=CONFIG):
    """The same run with ordinary steps and with recorded ones."""
    trainers = []
    for name in ("ordinary", "recorded"):
        torch.manual_seed(0)
        recorded = recorder(device, inside) if name == "recorded" else None
        trainers.append(make(tmp_path / name, build(), recorded, config, device))
    return trainers


def vector(module):
    return nn.utils.parameters_to_vector(module.parameters())


def agree(one, other):
    for module in ("raw", "ema.module"):
        mine, theirs = (vector(eval(f"trainer.{module}", {"trainer": each})) for each in (one, other))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"kl": 1.0, "entropy": 0.1}, {"langevin": LangevinConfig(steps=3, metropolis=True)}]
)
def test_replays_take_the_ordinary_steps(tmp_path, device, inside, more):
    def build():
        objective = contrastive()
        config = dataclasses.replace(objective.config, **more)
        return ContrastiveDivergence(objective.energy, objective.proposal, config)

    ordinary, recorded = both(tmp_path, build, device, inside)
    for trainer in (ordinary, recorded):
        trainer.objective.train()
    for _ in range(40):
        expected, found = ordinary.step(), recorded.step()
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name].cpu(), value.cpu(), rtol=1e-3, atol=1e-4)
    agree(ordinary, recorded)
    assert recorded.recorder.works and recorded.recorder._replay is not None
    mine, theirs = recorded.raw.memory(), ordinary.raw.memory()
    assert mine["buffer.counters"].equal(theirs["buffer.counters"])
    assert mine["buffer.born"].equal(theirs["buffer.born"])
    torch.testing.assert_close(mine["buffer.row.chain"], theirs["buffer.row.chain"], rtol=1e-3, atol=1e-4)


def test_python_runs_in_ordinary_steps_and_in_the_recording_alone(tmp_path):
    calls = []

    class Counted(Regression):
        def forward(self, batch, generator):
            calls.append(1)
            return super().forward(batch, generator)

    objective, net = regression(Counted)
    objective.net = net
    trainer = make(tmp_path / "run", objective, recorder("cpu", True))
    trainer.fit()
    assert len(calls) == WARM_UP + 1


def test_a_part_that_joins_in_is_recorded_anew(tmp_path):
    def build():
        objective, net = regression()
        objective.net = net
        return CombinedObjective(
            [Part("fit", objective), Part("energy", contrastive(), weight=0.5, start=10)]
        )

    ordinary, recorded = both(tmp_path, build)
    for trainer in (ordinary, recorded):
        trainer.fit()
        assert trainer.raw.iteration == 40
    agree(ordinary, recorded)
    assert recorded.recorder._key == recorded.raw.replay_key() != None  # noqa: E711
    assert [name for name, _ in recorded.recorder._key] == ["fit", "energy"]


def test_a_step_that_waits_for_the_device_stays_an_ordinary_one(tmp_path):
    def build():
        objective, net = regression(Reads)
        objective.net = net
        return CombinedObjective([Part("fit", objective)])

    ordinary, recorded = both(tmp_path, build)
    ordinary.fit()
    with pytest.warns(UserWarning, match="training steps are not recorded: operation not permitted"):
        recorded.fit()
    assert recorded.raw.iteration == 40 and not recorded.recorder.works
    agree(ordinary, recorded)


def test_after_a_divergence_steps_are_recorded_anew(tmp_path):
    def build():
        objective, net = regression()
        objective.net = net
        return objective

    ordinary, recorded = both(tmp_path, build, config=dataclasses.replace(CONFIG, checkpoint_every=100))
    for trainer in (ordinary, recorded):
        at = []

        def failing(trouble=trainer.guard.trouble, at=at):
            def look(figures):
                at.append(1)
                return "made up" if len(at) == 4 else trouble(figures)

            return look

        trainer.guard.trouble = failing()
        report = trainer.fit()
        assert report.restarts == 1
    agree(ordinary, recorded)
    assert recorded.recorder._replay is not None


def test_runs_are_resumed_with_recorded_steps_or_without(tmp_path):
    torch.manual_seed(0)
    whole = make(tmp_path / "whole", contrastive())
    whole.fit()
    for first, second in ((True, False), (False, True)):
        folder = tmp_path / f"{first}"
        torch.manual_seed(0)
        begun = make(folder, contrastive(), recorder("cpu", False) if first else None)
        begun.objective.train()
        for _ in range(20):
            begun.step()
        begun.save()
        resumed = make(folder, contrastive(), recorder("cpu", False) if second else None)
        resumed.resume()
        resumed.fit()
        agree(whole, resumed)


def test_what_cannot_be_recorded_is_said(tmp_path):
    with pytest.raises(InputError, match="recorded steps: the device is 'cpu'; accepted is cuda"):
        RecordedStep(torch.device("cpu"), inside=True)
    clipped = dataclasses.replace(CONFIG, element_clip=3.0)
    with pytest.raises(InputError, match="element clip of 3"):
        make(tmp_path / "run", regression()[0], recorder("cpu", True), clipped)
    adapting = contrastive(langevin=LangevinConfig(steps=3, metropolis=True), adapt=True)
    adapting.buffer.add({"chain": torch.zeros(100, 2)})
    assert adapting.replay_key() is None  # it reads the acceptance
    assert Objective().replay_key() is None


def small(kind, training="contrastive"):
    """Settings of a model of this kind for a moment's training."""
    config = CONFIGS[kind]
    changes = {"network": dataclasses.replace(config.network, width=16)}
    if kind == "ebm":
        changes |= {
            "training": training,
            "contrastive": dataclasses.replace(
                config.contrastive, batch_size=32, buffer_size=64, langevin=LangevinConfig(2, metropolis=True)
            ),
            "ranking": dataclasses.replace(config.ranking, batch_size=8, negatives=4),
            "denoising": dataclasses.replace(config.denoising, batch_size=16),
            "likelihood_batch": 16,
            "energy_start": 8 if training in ("contrastive", "ranking") else None,
        }
    else:
        changes["batch_size"] = 15  # of five members
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("ebm", "contrastive"),
        ("ebm", "ranking"),
        ("ebm", "denoising"),
        ("ebm", "combined"),
        ("fc", ""),
        ("flow", ""),
        ("diffusion", ""),
        ("gaussian", ""),
        ("mixture", ""),
    ],
)
def test_models_of_trajectories_are_trained_by_recorded_steps(toy, tmp_path, monkeypatch, kind, training):
    recorders = []

    def make_recorder(device):
        recorders.append(RecordedStep(device, capture=capture))
        return recorders[-1]

    monkeypatch.setattr(training_module, "RecordedStep", make_recorder)
    settings = TrainSettings(
        trainer=TrainerConfig(iterations=24, log_every=6, validate_every=0, warmup=5),
        conditioning="states" if kind != "ebm" else "joint",
        inverse_iterations=0,
    )
    found = [
        train(toy, kind, small(kind, training), settings, tmp_path / name, recorded=name == "recorded")
        for name in ("ordinary", "recorded")
    ]
    assert recorders[0].inside and recorders[0].works and recorders[0]._replay is not None
    mine, theirs = map(vector, found)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_launch_that_is_recorded_takes_its_seed_from_the_device(monkeypatch):
    # a seed that Python draws would be the same in every replay
    def launch(form, start, config, *, scale, seed):
        return Chain(x=start + seed % 1000, acceptance=torch.ones(()))

    monkeypatch.setattr(triton_chain, "triton_langevin", launch)
    own, start = torch.Generator(), torch.zeros(2)

    def run(*static, generator):
        return (langevin_module._in_one_launch(SmallEnergy(), start, LangevinConfig(), None, generator).x,)

    with recording():
        replay = capture(run, (), own.manual_seed(0))
    walked = [replay()[0].clone() for _ in range(4)]
    assert len({float(x[0]) for x in walked}) == 4
    own.manual_seed(0)
    assert replay()[0].equal(walked[0])


@pytest.mark.parametrize("device", DEVICES)
def test_the_benchmark_times_replays(device):
    settings = StepSettings(batch=20, size=3, window=2, width=8, depth=2, steps=2, buffer=40, data=100)
    data = Data(settings, device, 0)
    taken = recorder(device, True)
    step = recorded_step(settings, data, 0, taken)
    assert taken.works and taken._replay is not None
    losses = {float(step()) for _ in range(10)}  # batches and noise are new ones in each replay
    assert len(losses) == 10 and all(abs(loss) < 10 for loss in losses)
