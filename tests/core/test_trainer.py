"""The loop: resumes to the same weights, goes back after a divergence, logs each iteration once."""

import dataclasses
import time

import pytest
import torch
from torch import nn

from ebm_traj.core.checkpoint import load_tensors, save_tensors
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.ema import EMA
from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.logs import MetricLog, read_metrics
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.seeding import derive_seed
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.errors import InputError, RunError
from ebm_traj.trajectory.training import make_fabric

CONFIG = TrainerConfig(iterations=40, log_every=5, checkpoint_every=10, warmup=5)


class SmallEnergy(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, condition=None):
        return self.net(torch.cat([x, condition["c"]], -1)).squeeze(-1) + 0.5 * x.square().sum(-1)


def batches(iteration, generator):
    c = torch.randn(20, 1, generator=generator)
    return Batch(torch.cat([c, -c], -1), {"c": c})


def contrastive() -> Objective:
    torch.manual_seed(0)
    config = ContrastiveConfig(40, LangevinConfig(steps=3), buffer_size=100, replay_fraction=0.5)
    return ContrastiveDivergence(
        SmallEnergy(), NoiseProposal(lambda condition: torch.zeros(len(condition["c"]), 2), 1.0), config
    )


def make(folder, objective=None, config=CONFIG, identity=None) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(
        objective or contrastive(), batches, config, folder, make_fabric("cpu"), identity or {"data": "toy"}
    )


def stop():
    raise KeyboardInterrupt


def weights(trainer: Trainer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.ema.module.parameters())


def test_a_resumed_run_takes_the_same_steps_as_an_uninterrupted_one(tmp_path):
    whole = make(tmp_path / "whole")
    whole.fit()
    first = make(tmp_path / "parts")
    step, first.step = first.step, lambda: step() if first.iteration < 23 else stop()
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = make(tmp_path / "parts")
    second.resume()
    assert second.iteration == 20
    second.fit()
    assert torch.equal(weights(second), weights(whole))
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[0] == rows[1] and [row["iteration"] for row in rows[0]] == list(range(5, 41, 5))
    assert torch.equal(second.raw.buffer.rows["chain"], whole.raw.buffer.rows["chain"])


def test_a_resume_with_other_settings_names_the_setting(tmp_path):
    trainer = make(tmp_path)
    trainer.save()
    with pytest.raises(InputError, match="data is other now and was toy"):
        make(tmp_path, identity={"data": "other"}).resume()


def test_a_missing_or_cut_checkpoint_is_named(tmp_path):
    trainer = make(tmp_path)
    with pytest.raises(InputError, match="no file"):
        trainer.resume()
    trainer.save()
    path = tmp_path / TRAINING_FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated"):
        trainer.resume()


def test_checkpoint_round_trip_and_no_temporary_file_left(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.arange(6.0).view(2, 3).T}, {"n": [1, 2]})
    tensors, meta = load_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3).T) and meta == {"n": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


class Unstable(Objective):
    """A parabola whose loss is NaN, or whose energy runs away, at one iteration of the first sitting."""

    def __init__(self, bad: dict[str, float]) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.ones(1))
        self.new_rows = 1
        self.calls = 0
        self.bad = bad
        self.recovered = 0

    def forward(self, batch, generator):
        self.calls += 1
        poison = self.bad if self.calls == 13 else {}
        loss = (self.parameter**2).sum() * poison.get("loss", 1.0)
        return loss, {"energy_data": torch.tensor(poison.get("energy", 0.0))}

    def recover(self) -> str:
        self.recovered += 1
        return "took a breath"


def test_not_a_number_sends_training_back_to_good_weights(tmp_path):
    objective = Unstable({"loss": float("nan")})
    trainer = make(tmp_path, objective)
    report = trainer.fit()
    assert report.restarts == 1 and report.iterations == 40 and objective.recovered == 1
    assert torch.isfinite(objective.parameter).all() and torch.isfinite(weights(trainer)).all()
    message = (tmp_path / "restarts.log").read_text()
    assert "back to 10" in message and "took a breath" in message


def test_what_a_checkpoint_holds_has_been_looked_at(tmp_path):
    settings = dataclasses.replace(CONFIG, log_every=10, checkpoint_every=13)
    trainer = make(tmp_path / "whole", Unstable({"loss": float("nan")}), settings)
    assert trainer.fit().restarts == 1  # at 13, before it is written
    # killed after that: what is on disk can go on
    first = make(tmp_path / "cut", Unstable({"loss": float("nan")}), settings)
    step, first.step = first.step, lambda: step() if first.iteration < 15 else stop()
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = make(tmp_path / "cut", Unstable({}), settings)
    second.resume()
    assert second.fit().iterations == 40 and torch.isfinite(weights(second)).all()


def test_runaway_energies_send_training_back(tmp_path):
    objective = Unstable({"energy": 1e9})
    report = make(tmp_path, objective, dataclasses.replace(CONFIG, log_every=1)).fit()
    assert report.restarts == 1
    assert "energy_data is 1e+09" in (tmp_path / "restarts.log").read_text()


def test_training_that_always_diverges_ends_with_an_error(tmp_path):
    class Hopeless(Unstable):
        def forward(self, batch, generator):
            return self.parameter.sum() * float("nan"), {}

    with pytest.raises(RunError, match="diverged 6 times"):
        make(tmp_path, Hopeless({})).fit()


def test_log_has_each_iteration_once_and_survives_a_resume(tmp_path):
    with MetricLog(tmp_path) as log:
        for iteration in (5, 10, 15):
            log.write(iteration, {"loss": float(iteration)})
    with MetricLog(tmp_path, 10) as log:
        log.write(15, {"loss": 0.0, "more": 1.0})
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["iteration"] for row in rows] == [5, 10, 15]
    assert rows[1] == {"iteration": 10, "loss": 10} and rows[2] == {"iteration": 15, "loss": 0, "more": 1}
    assert list((tmp_path / "tensorboard").iterdir())


def test_average_follows_the_weights_and_copies_buffers():
    module = nn.BatchNorm1d(2)
    ema = EMA(module, decay=0.5)
    nn.init.constant_(module.weight, 3.0)
    module.running_mean.fill_(7.0)
    ema.update(module)
    # at first the decay is (1 + 1) / (10 + 1): the weight moves 9 / 11 of the way from 1 to 3
    assert torch.allclose(ema.module.weight, torch.tensor(1 + 2 * 9 / 11))
    assert torch.equal(ema.module.running_mean, module.running_mean)
    for _ in range(60):
        ema.update(module)
    assert torch.allclose(ema.module.weight, module.weight)


def test_learning_rate_rises_and_falls():
    config = TrainerConfig(iterations=100, learning_rate=1.0, warmup=10, final_learning_rate=0.1)
    rates = [config.learning_rate_at(i) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) < 1 and rates[-1] == pytest.approx(0.109)


def test_seeds_depend_on_every_part_and_on_nothing_else():
    assert derive_seed(1, "a") == derive_seed(1, "a")
    assert len({derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), ("1", 2)]}) == 4
    assert derive_seed(0) == 2631537505891389924


# --- validation ---------------------------------------------------------------------------------------


def held_out(module) -> dict[str, float]:
    """A score that rises and falls while the weights move, from the weights alone."""
    vector = nn.utils.parameters_to_vector(module.parameters())
    return {"energy_score": float((100 * vector.norm()).sin()), "norm": float(vector.norm())}


def scripted(scores: list[float], seen: list[torch.Tensor]):
    """Gives the scores one by one, and keeps the weights it was shown."""

    def validate(module):
        seen.append(nn.utils.parameters_to_vector(module.parameters()).clone())
        return {"energy_score": scores[len(seen) - 1]}

    return validate


def test_a_resumed_run_keeps_the_same_best_weights(tmp_path):
    config = dataclasses.replace(CONFIG, validate_every=4)

    def validated(folder):
        folder.mkdir(exist_ok=True)
        return Trainer(contrastive(), batches, config, folder, make_fabric("cpu"), {}, held_out)

    whole = validated(tmp_path / "whole")
    report = whole.fit()
    plain = make(tmp_path / "plain", config=dataclasses.replace(config, keep="last"))
    plain.fit()  # validation changes no step
    assert torch.equal(*(nn.utils.parameters_to_vector(t.raw.parameters()) for t in (whole, plain)))
    first = validated(tmp_path / "parts")
    step, first.step = first.step, lambda: step() if first.iteration < 29 else stop()
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = validated(tmp_path / "parts")
    second.resume()
    assert second.iteration == 20 and second.best is not None and second.best.iteration <= 20
    again = second.fit()
    assert torch.equal(weights(second), weights(whole))
    assert (again.kept_iteration, again.kept_score) == (report.kept_iteration, report.kept_score)
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    scores = {row["iteration"]: row["validation/energy_score"] for row in rows[0] if "validation/norm" in row}
    assert list(scores) == list(range(4, 41, 4))
    near = [at for at, score in scores.items() if score <= 1.01 * min(scores.values())]
    assert max(near) == report.kept_iteration
    third = validated(tmp_path / "parts")  # of the finished run: nothing left to do but to choose
    third.resume()
    assert third.fit().kept_iteration == report.kept_iteration and torch.equal(weights(third), weights(whole))


@pytest.mark.parametrize(
    ("keep", "scores", "kept"),
    [
        ("best", [3.0, 1.0, 2.0, float("nan"), 1.5], 1),
        ("best", [3.0, 1.0, 1.005, 2.0, 1.02], 2),  # the later of those that noise cannot tell apart
        ("last", [3.0, 1.0, 2.0, 4.0, 5.0], 4),
        ("best", [float("nan")] * 5, 4),  # nothing to choose by
    ],
)
def test_the_weights_of_the_lowest_score_are_left(tmp_path, keep, scores, kept):
    seen: list[torch.Tensor] = []
    config = dataclasses.replace(CONFIG, validate_every=9, keep=keep)  # 9, 18, 27, 36 and the last, 40
    trainer = Trainer(
        contrastive(), batches, config, tmp_path, make_fabric("cpu"), {}, scripted(scores, seen)
    )
    report = trainer.fit()
    assert len(seen) == 5 and torch.equal(weights(trainer), seen[kept])
    assert report.kept_iteration == [9, 18, 27, 36, 40][kept]
    assert report.kept_score == (scores[kept] if kept in (1, 2) else None)


def test_validation_is_not_counted_as_training_and_may_be_off(tmp_path):
    def slow(module):
        time.sleep(0.5)
        return {"energy_score": 1.0}

    config = dataclasses.replace(CONFIG, validate_every=20)
    report = Trainer(contrastive(), batches, config, tmp_path, make_fabric("cpu"), {}, slow).fit()
    assert report.validation_seconds >= 1 and report.seconds < report.validation_seconds
    (tmp_path / "off").mkdir()
    off = dataclasses.replace(CONFIG, validate_every=0)
    report = Trainer(contrastive(), batches, off, tmp_path / "off", make_fabric("cpu"), {}, slow).fit()
    assert report.validation_seconds == 0 and report.kept_iteration == 40 and report.kept_score is None


def test_wrong_settings_of_validation_are_named():
    with pytest.raises(InputError, match="validate every: -1"):
        TrainerConfig(validate_every=-1)
    with pytest.raises(InputError, match="keep: 'first'; accepted are best, last"):
        TrainerConfig(keep="first")


@pytest.mark.parametrize(
    ("schedule", "middle"), [("linear", 0.55), ("exponential", 0.1**0.5), ("cosine", 0.55)]
)
def test_schedules_begin_at_the_peak_and_end_at_their_share_of_it(schedule, middle):
    config = TrainerConfig(
        iterations=100, learning_rate=2.0, warmup=1, final_learning_rate=0.1, schedule=schedule
    )
    rates = [config.learning_rate_at(i) / 2.0 for i in (0, 50, 100)]
    assert rates == pytest.approx([1.0, middle, 0.1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"schedule": "steps"}, "schedule: 'steps'"),
        ({"schedule": "exponential", "final_learning_rate": 0.0}, "final learning rate: 0.0"),
        ({"element_clip": -1.0}, "element clip: -1.0"),
        ({"gradient_clip": -1.0}, "gradient clip: -1.0"),
        ({"warmup": -3}, "warmup: -3"),
        ({"final_learning_rate": -3.0}, "final learning rate: -3.0"),
        ({"max_restarts": -1}, "max restarts: -1"),
        ({"ema_decay": 1.5}, "ema decay: 1.5"),
        ({"betas": (2.0, 3.0)}, "betas: 2.0 3.0"),
        ({"learning_rate": float("nan")}, "learning rate: nan"),
    ],
)
def test_wrong_settings_of_the_optimiser_are_named(given, words):
    with pytest.raises(InputError, match=words):
        TrainerConfig(**given)


def test_processor_time_counts_all_sittings_and_not_validation(tmp_path):
    def validate(module):
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return {"held_out": 1.0}

    config = dataclasses.replace(CONFIG, iterations=20, validate_every=10)
    (tmp_path / "run").mkdir()

    def build(steps):
        settings = dataclasses.replace(config, iterations=steps)
        fabric = make_fabric("cpu")
        return Trainer(
            contrastive(), batches, settings, tmp_path / "run", fabric, {}, validate, score="held_out"
        )

    first = build(10).fit()
    assert first.kept_score == 1.0 and first.cpu_seconds > 0
    second = build(20)
    second.resume()
    assert second.cpu_seconds == pytest.approx(first.cpu_seconds)
    report = second.fit()
    assert first.cpu_seconds < report.cpu_seconds < first.cpu_seconds + 0.3


@pytest.mark.parametrize("unseen", [False, True])
def test_element_clip_bounds_outliers_and_lets_pass_what_never_had_a_gradient(tmp_path, unseen):
    config = dataclasses.replace(CONFIG, element_clip=3.0, betas=(0.0, 0.9))
    trainer = make(tmp_path / "run", config=config)
    for _ in range(5):
        trainer.step()
    parameter = next(trainer.raw.parameters())
    usual = trainer.optimizer.state[parameter]["exp_avg_sq"]
    if unseen:
        usual.zero_()
    parameter.grad = torch.full_like(parameter, 1e6)
    trainer._clip_elements()
    bound = 3 * (usual / (1 - 0.9**5)).sqrt()
    expected = torch.full_like(parameter, 1e6) if unseen else bound
    torch.testing.assert_close(parameter.grad, expected)
