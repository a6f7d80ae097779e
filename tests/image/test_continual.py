"""Continual learning: the stream, energies that forget nothing, EWC's closed forms, the study."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from ebm_traj.core.denoising import LEVEL, denoise
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.class_energy import ClassEnergies, ClassEnergyConfig, DenoiserEnergy
from ebm_traj.image.continual import (
    ClassEnergyLearner,
    ContinualProtocol,
    LabelEnergyLearner,
    Pixels,
    accuracy,
    batches_of,
    read_pixels,
    run_stream,
    tasks_of,
)
from ebm_traj.image.continual_baselines import (
    Anchor,
    GaussianClasses,
    SoftmaxConfig,
    SoftmaxLearner,
    fisher_diagonal,
    t_interval,
)
from ebm_traj.image.continual_study import ContinualConfig, learners, legend
from ebm_traj.image.label_energy import LabelContrast, LabelEnergy, LabelEnergyConfig

SMALL = ClassEnergyConfig(width=16, batch_size=8, repeats=8, levels=4, draws=2, learning_rate=2e-2)
CENTRES = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 2.0]])


def blobs(count=400, seed=0):
    """Four classes, each a Gaussian blob in four dimensions."""
    generator = seeded_generator("cpu", seed, "blobs")
    y = torch.randint(4, (count,), generator=generator)
    return Pixels(CENTRES[y] + 0.4 * torch.randn(count, 4, generator=generator), y)


TASKS = [[0, 1], [2, 3]]


def test_the_stream_shows_each_picture_once_and_no_other_task():
    rows = blobs().of([2, 3])
    seen = torch.cat([x for x, _ in batches_of(rows, ContinualProtocol(batch_size=7), 0)])
    assert torch.equal(seen.sort(0).values, rows.x.sort(0).values)
    drawn = list(batches_of(rows, ContinualProtocol(batch_size=5, iterations=3), 0))
    assert [x.shape for x, _ in drawn] == [(5, 4)] * 3
    assert all(set(y.tolist()) <= {2, 3} for _, y in drawn)
    again = torch.cat([x for x, _ in batches_of(rows, ContinualProtocol(batch_size=7), 0)])
    assert torch.equal(seen, again)


def test_the_split_is_in_order_and_divides():
    assert tasks_of(6, 2) == [[0, 1], [2, 3], [4, 5]]
    for classes, per_task in ((10, 3), (4, 4)):
        with pytest.raises(InputError, match="classes per task"):
            tasks_of(classes, per_task)


def test_pictures_are_scaled_by_fixed_numbers():
    digits = open_pictures("digits", "test")
    rows = read_pixels(digits)
    assert rows.x.shape == (len(digits), 64)
    assert float(rows.x.min()) == -2
    assert float(rows.x.max()) == 2
    unknown = dataclasses.replace(digits, y=np.full(len(digits), -1))
    with pytest.raises(InputError, match="has no classes"):
        read_pixels(unknown)


def test_class_energies_learn_and_a_later_class_changes_nothing():
    train, test = blobs(1600), blobs(200, seed=1)
    learner = ClassEnergyLearner(4, 4, SMALL, 0)
    first = train.of([0, 1])
    for x, y in batches_of(first, ContinualProtocol(batch_size=16), 0):
        learner.observe(x, y)
    before = learner.energies.log_evidence(test.x, [0, 1])
    alone = accuracy(learner, test.of([0, 1]), [0, 1])
    second = train.of([2, 3])
    for x, y in batches_of(second, ContinualProtocol(batch_size=16), 0):
        learner.observe(x, y)
    assert torch.equal(learner.energies.log_evidence(test.x, [0, 1]), before)
    assert alone > 0.9
    assert accuracy(learner, test, [0, 1, 2, 3]) > 0.8
    assert learner.energies.known == [0, 1, 2, 3]


def test_evidence_of_a_gaussian_orders_as_its_density():
    """With h the exact denoiser of N(m, 1) the evidence differs between classes as log p does."""

    class Exact(DenoiserEnergy):
        def __init__(self, mean):
            super().__init__(4, 1)
            self.mean = mean

        def forward(self, x, condition):
            return 0.5 * (x - self.mean).square().sum(1) / (1 + condition[LEVEL] ** 2)

    config = dataclasses.replace(SMALL, levels=60, draws=20, sigma_min=0.01, sigma_max=100.0)
    energies = ClassEnergies(4, 2, config, 0)
    energies.energies = [Exact(CENTRES[0]), Exact(CENTRES[1])]
    x = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    found = energies.log_evidence(x, [0, 1])
    exact = [-0.5 * float((x - m).square().sum()) for m in CENTRES[:2]]
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(exact[0] - exact[1], rel=0.15)
    # the energy's own denoiser is Tweedie's
    noisy, level = torch.randn(3, 4), torch.full((3,), 2.0)
    said = denoise(energies.energies[0], noisy, {LEVEL: level})
    torch.testing.assert_close(said, noisy - 4 * (noisy - CENTRES[0]) / 5)


def test_class_energies_generate_their_class():
    train = blobs(3000)
    learner = ClassEnergyLearner(4, 4, SMALL, 0)
    for x, y in batches_of(train, ContinualProtocol(batch_size=32), 0):
        learner.observe(x, y)
    for label in (0, 2):
        drawn = learner.energies.sample(label, 64, seed=0)
        assert float((drawn.mean(0) - CENTRES[label]).norm()) < 0.7
    with pytest.raises(InputError, match="class 1: never met"):
        ClassEnergies(4, 2, SMALL, 0).sample(1, 2, 0)
    with pytest.raises(InputError, match="class 1: never met"):
        ClassEnergies(4, 2, SMALL, 0).log_evidence(torch.zeros(1, 4), [1])


def test_fewer_pictures_than_a_step_wait_for_the_next_batch():
    energies = ClassEnergies(4, 2, SMALL, 0)
    energies.observe(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
    assert energies.known == []
    energies.observe(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
    assert energies.known == [0]
    assert len(energies._waiting[0]) == 2


@pytest.mark.parametrize("contrast", ["logistic", "difference", "batch"])
def test_the_contrast_leaves_absent_classes_alone(contrast):
    config = LabelEnergyConfig(width=6, contrast=contrast, regularisation=0.0)
    torch.manual_seed(0)
    energy = LabelEnergy(4, 5, config).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    y = torch.tensor([1, 3] * 4)
    loss, _ = LabelContrast(energy, config, 8)(Batch(x, {"label": y}), seeded_generator("cpu", 0))
    loss.backward()
    touched = energy.gain.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, True, False, True, False]
    own, other = energy(x, {"label": y}), energy(x, {"label": 4 - y})
    by_class = energy.of_classes(x, torch.tensor([1, 3]))
    torch.testing.assert_close(by_class[torch.arange(8), (y == 3).long()], own)
    gap = own - other  # of two classes, the other one is the only negative
    known = {"logistic": nn.functional.softplus(gap), "difference": gap, "batch": nn.functional.softplus(gap)}
    assert float(loss.detach()) == pytest.approx(float(known[contrast].mean().detach()))


def test_a_batch_of_one_class_teaches_the_contrast_nothing():
    learner = LabelEnergyLearner(4, 3, LabelEnergyConfig(width=4, regularisation=0.0), 0)
    before = [p.detach().clone() for p in learner.energy.parameters()]
    learner.observe(torch.randn(4, 4), torch.ones(4, dtype=torch.int64))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.energy.parameters(), strict=True))


def test_the_fisher_information_of_a_linear_gaussian_is_known():
    x = torch.randn(50, 3, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(3, 2, dtype=torch.float64))
    weight, bias = fisher_diagonal(network, x, "gaussian")
    torch.testing.assert_close(weight, x.square().mean(0).expand(2, 3))
    torch.testing.assert_close(bias, torch.ones(2, dtype=torch.float64))


def test_the_fisher_information_of_a_softmax_is_the_sum_over_rows_and_classes():
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    found = fisher_diagonal(network, x)
    known = [torch.zeros_like(p) for p in network.parameters()]
    for row in x:
        log_p = torch.log_softmax(network(row), 0)
        for k in range(3):
            slopes = torch.autograd.grad(log_p[k], list(network.parameters()), retain_graph=True)
            for total, slope in zip(known, slopes, strict=True):
                total += log_p[k].exp().detach() * slope.square() / len(x)
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b)
    own = torch.tensor([0, 2])  # the same as of a network that has these outputs alone
    part = nn.Sequential(network[0], network[1], nn.Linear(4, 2).double())
    part[2].weight.data, part[2].bias.data = network[2].weight.data[own], network[2].bias.data[own]
    ours, theirs = fisher_diagonal(network, x, classes=own), fisher_diagonal(part, x)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(ours[2:], theirs[2:], strict=True):
        torch.testing.assert_close(a[own], b)
        assert not a[1].any()
    with pytest.raises(InputError, match="only linear layers"):
        fisher_diagonal(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.zeros(1, 1, 2, 2))


def test_ewc_of_a_linear_gaussian_is_the_joint_fit():
    """Orthogonal inputs: the diagonal is all of the Fisher information, the penalty is the first task's loss
    up to a constant, so its sum with the second task's loss has the joint least-squares solution."""
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(20, 4, dtype=torch.float64))
    first, second = q[:, :4] * torch.tensor([1.0, 2, 3, 4]), 2 * q[:, :4].flip(0)
    target_1, target_2 = torch.randn(20, 1).double(), torch.randn(20, 1).double()
    network = nn.Sequential(nn.Linear(4, 1, bias=False, dtype=torch.float64))
    network[0].weight.data = torch.linalg.lstsq(first, target_1).solution.T
    anchor = Anchor()
    anchor.add(network, [20 * f for f in fisher_diagonal(network, first, "gaussian")])
    weight = network[0].weight
    for _ in range(3):  # Newton's method on a quadratic
        loss = 0.5 * (network(second) - target_2).square().sum() + anchor.penalty(network)
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(s, weight, retain_graph=True)[0][0] for s in slope[0]])
        weight.data -= torch.linalg.solve(hessian, slope[0]).detach()[None]
    joint = torch.linalg.lstsq(torch.cat([first, second]), torch.cat([target_1, target_2])).solution.T
    torch.testing.assert_close(weight.detach(), joint)


def test_anchors_of_several_tasks_are_one_quadratic_with_the_same_gradient():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2)).double()
    anchor, single = Anchor(), []
    for _ in range(3):
        for p in network.parameters():
            p.data = torch.randn_like(p)
        fisher = [torch.rand_like(p) for p in network.parameters()]
        single.append((fisher, [p.detach().clone() for p in network.parameters()]))
        anchor.add(network, [f.clone() for f in fisher])
    for p in network.parameters():
        p.data = torch.randn_like(p)
    found = torch.autograd.grad(anchor.penalty(network), list(network.parameters()))
    for k, p in enumerate(network.parameters()):
        known = sum(f[k] * (p.detach() - a[k]) for f, a in single)
        torch.testing.assert_close(found[k], known)
    assert anchor.numbers == 12
    assert float(Anchor().penalty(network)) == 0


def test_baselines_forget_and_replay_does_not():
    train, test = blobs(3000), blobs(300, seed=1)
    protocol = ContinualProtocol(batch_size=16)
    plain = SoftmaxConfig(width=16, learning_rate=5e-3, replayed=100)
    forgets = SoftmaxLearner(4, 4, plain, 0)
    after = run_stream(forgets, train, test, TASKS, protocol, 0)
    assert after[0] > 0.95
    assert after[1] < 0.7
    replays = SoftmaxLearner(4, 4, plain, 0, ClassEnergies(4, 4, SMALL, 0))
    kept = run_stream(replays, train, test, TASKS, protocol, 0)
    assert kept[1] > 0.85
    assert set(replays.pool) == {0, 1, 2, 3}
    assert replays.parameters > forgets.parameters
    held = SoftmaxLearner(4, 4, dataclasses.replace(plain, penalty=1e4, own_classes=True), 0)
    run_stream(held, train, test, TASKS[:1], protocol, 0)
    before = [p.detach().clone() for p in held.network.parameters()]
    for x, y in batches_of(train.of([2, 3]), protocol, 0):
        held.observe(x, y)
    free = SoftmaxLearner(4, 4, dataclasses.replace(plain, own_classes=True), 0)
    free.network.load_state_dict(held.network.state_dict())
    moved = sum(
        float((a - b.detach()).norm()) for a, b in zip(before, held.network.parameters(), strict=True)
    )
    assert held.kept == 2 * held.parameters
    assert math.isfinite(moved)


def test_gaussian_classes_are_the_discriminant_of_their_moments():
    train, test = blobs(2000), blobs(300, seed=1)
    learner = GaussianClasses(4, 4, 1e-6)
    found = run_stream(learner, train, test, TASKS, ContinualProtocol(batch_size=50), 0)
    assert found[-1] > 0.97
    rows = train.of([2]).x.double()
    torch.testing.assert_close(learner.sum[2] / learner.count[2], rows.mean(0))
    cov = learner.square[2] / learner.count[2] - rows.mean(0)[:, None] * rows.mean(0)
    torch.testing.assert_close(cov, torch.cov(rows.T, correction=0))


def test_intervals_are_students():
    mean, half = t_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.isnan(t_interval([1.0])[1])


def test_all_learners_have_names_and_are_the_same_for_the_same_seed():
    config = ContinualConfig(
        classes=SMALL, label=LabelEnergyConfig(width=6), softmax=SoftmaxConfig(width=6, replayed=10)
    )
    train, test = blobs(80), blobs(40, seed=1)
    for name, make in learners(4, 4, config).items():
        runs = [
            run_stream(make(3), train, test, TASKS, ContinualProtocol(batch_size=10), 3) for _ in range(2)
        ]
        assert runs[0] == runs[1], name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinualProtocol(batch_size=1), "batch size: 1"),
        (lambda: ContinualProtocol(iterations=-1), "iterations: -1"),
        (lambda: ContinualProtocol(classes_per_task=0), "classes per task: 0"),
        (lambda: ClassEnergyConfig(width=0), "width: 0"),
        (lambda: ClassEnergyConfig(sigma_min=5.0), "0 < low < high"),
        (lambda: ClassEnergyConfig(learning_rate=0), "learning rate 0"),
        (lambda: LabelEnergyConfig(contrast="none"), "accepted are logistic"),
        (lambda: LabelEnergyConfig(width=0), "width: 0"),
        (lambda: LabelEnergyConfig(regularisation=-1), "regularisation: -1"),
        (lambda: SoftmaxConfig(penalty=-1), "penalty: -1"),
        (lambda: SoftmaxConfig(replayed=0), "replayed: 0"),
        (lambda: SoftmaxConfig(learning_rate=0), "learning rate: 0"),
        (lambda: GaussianClasses(2, 2, 0), "shrinkage: 0"),
    ],
)
def test_bad_settings_are_answered(make, message):
    with pytest.raises(InputError, match=message):
        make()


def command(*argv):
    from ebm_traj.cli import run
    from ebm_traj.image.commands import continual

    run(continual.main, continual.Args, [str(word) for word in argv])


def test_the_command_reports_resumes_and_refuses(tmp_path, capsys):
    out = tmp_path / "out"
    only = ["--only", "softmax, fine-tuned", "Gaussian class energies, closed form"]
    tiny = ["--protocol.iterations", "3", "--learners.softmax.width", "8", *only]
    command("--out", out, *tiny, "--seeds", "1")
    runs = json.loads((out / "runs.json").read_text())["runs"]
    command("--out", out, *tiny, "--seeds", "2", "--resume")
    both = json.loads((out / "runs.json").read_text())["runs"]
    assert len(both) == 4
    assert all(both[name] == run for name, run in runs.items())
    content = json.loads((out / "continual.json").read_text())
    assert [len(row["after"]) for row in content["rows"]] == [2, 2]
    assert all(len(row["after"][0]) == 5 for row in content["rows"])
    page = (out / "continual.md").read_text()
    assert "Split-digits" in page
    assert "3 batches of 32 per task" in page and "Test accuracy" in page
    assert (out / "continual.png").stat().st_size > 2000
    capsys.readouterr()
    for argv, message in (
        (("--out", out), "exists"),
        (("--out", out, "--resume", "--seeds", "1"), "was"),
        (("--out", tmp_path / "new", "--on", "train"), "accepted are test, validation"),
        (("--out", tmp_path / "new", "--seeds", "0"), "--seeds 0"),
        (("--out", tmp_path / "new", "--only", "magic"), "learners: magic"),
        (("--out", tmp_path / "new", "--protocol.classes-per-task", "3"), "classes per task: 3"),
        (("--out", tmp_path / "new", "--data", str(tmp_path / "none.npz")), "none.npz"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_legend_says_what_accuracies_are_of():
    found = legend("digits", ContinualProtocol(), 2, "validation", 7)
    assert "Validation accuracy" in found and "reads 7 of its pictures" in found
