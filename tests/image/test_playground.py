"""The playground: quadrature, learning in the plane, composition and paths, the command."""

import dataclasses
import json
import math

import pytest
import torch

from ebm_traj.core.energy import FunctionEnergy
from ebm_traj.core.hmc import HMCConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.plane_composition import (
    PathConfig,
    Paths,
    both,
    either,
    normalised,
    passes,
    without,
)
from ebm_traj.image.plane_paths import path_study
from ebm_traj.image.playground import Grid, PlaneConfig, learn, of_x, score, walk_anywhere
from ebm_traj.image.toy import Gaussians, ring, toy

SMALL = PlaneConfig(width=32, samples=2000)
SMALL = dataclasses.replace(
    SMALL,
    trainer=dataclasses.replace(SMALL.trainer, iterations=60, warmup=5, ema_decay=0.9),
    denoising=dataclasses.replace(SMALL.denoising, batch_size=256),
    contrastive=dataclasses.replace(
        SMALL.contrastive,
        batch_size=128,
        buffer_size=1000,
    ),
)


def gaussian(mean, scale):
    return Gaussians(torch.tensor([mean]), scale)


def test_quadrature_gives_known_integrals():
    bowl = FunctionEnergy(lambda x: x.square().sum(1) / (2 * 0.5**2) + 3.0)
    assert Grid(5, 200).log_z(of_x(bowl)) == pytest.approx(math.log(2 * math.pi * 0.25) - 3, abs=1e-6)
    a, b = gaussian([0.5, 0.0], 0.5), gaussian([-0.3, 0.4], 0.7)
    # KL between round Gaussians in two dimensions
    known = 2 * math.log(0.7 / 0.5) + (2 * 0.25 + 0.8**2 + 0.4**2) / (2 * 0.49) - 1
    assert Grid(6, 300).kl(of_x(a), of_x(b)) == pytest.approx(known, rel=1e-4)
    assert Grid(6, 300).kl(of_x(a), of_x(a)) == pytest.approx(0, abs=1e-9)


def test_compositions_of_gaussians_are_what_algebra_says():
    grid = Grid(6, 200)
    narrow, wide = gaussian([1.0, 0.0], 0.5), gaussian([-1.0, 0.0], 1.0)
    # the product of two Gaussians: precisions add, means are weighted by them
    product = gaussian([(1.0 / 0.25 - 1.0) / (1 / 0.25 + 1), 0.0], (1 / 0.25 + 1) ** -0.5)
    assert grid.kl(of_x(product), of_x(both(narrow, wide))) == pytest.approx(0, abs=1e-6)
    # the plain negation of a wider one: precisions are taken off
    rest = gaussian([(4 + 1) / 3, 0.0], 3**-0.5)
    assert grid.kl(of_x(rest), of_x(narrow + -1.0 * wide)) == pytest.approx(0, abs=1e-6)
    # or: with log Z taken off first, a shifted energy counts no more than the other
    shifted = normalised(FunctionEnergy(lambda x: of_x(narrow)(x) - 7.0), grid)
    halves = Gaussians(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.5)
    mixed = either(shifted, normalised(gaussian([-1.0, 0.0], 0.5), grid))
    assert grid.kl(of_x(halves), of_x(mixed)) == pytest.approx(0, abs=1e-6)


def test_a_bounded_negation_is_local():
    one, other = gaussian([0.0, 0.0], 1.0), gaussian([1.0, 0.0], 0.3)
    energy = without(one, other, strength=50.0)
    x = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    extra = energy(x) - one(x)
    assert float(extra[0]) == pytest.approx(math.log(1 + 50 * math.exp(-float(other(x)[0]))), rel=1e-5)
    assert abs(float(extra[1])) < 1e-6
    with pytest.raises(InputError, match="strength"):
        without(one, other, 0.0)


@pytest.mark.parametrize("learning", ["denoising", "contrastive"])
def test_learning_brings_an_energy_nearer_to_the_truth(learning, tmp_path):
    density = ring(modes=3, radius=1.5, scale=0.5)
    config = dataclasses.replace(SMALL, learning=learning)
    nothing = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, iterations=1))
    grid = Grid(6, 120)
    before = score(density, learn(density, nothing, tmp_path / "nothing").energy, grid, 4000)
    learnt = learn(density, config, tmp_path / "run")
    after = score(density, learnt.energy, grid, 4000)
    assert after.kl < 0.8 * before.kl
    # the same number in two ways: a mean over samples, and quadrature
    assert after.truth - after.log_likelihood == pytest.approx(after.kl, abs=0.06)
    x = learnt.sample(100, seeded_generator("cpu", 0)).x
    assert x.shape == (100, 2)
    assert float(density(x).mean()) < 0.7 * float(density(8 * torch.rand(500, 2) - 4).mean())
    if learning == "contrastive":
        with pytest.raises(InputError, match="levels"):
            learnt.energy_at(torch.ones(1))


def test_the_same_seed_learns_the_same_energy(tmp_path):
    config = dataclasses.replace(SMALL, trainer=dataclasses.replace(SMALL.trainer, iterations=3))
    x = torch.randn(5, 2, generator=seeded_generator("cpu", 0))
    one, two = (of_x(learn(toy("moons"), config, tmp_path / name).energy)(x) for name in "ab")
    assert torch.equal(one, two)


def test_paths_end_where_they_should_and_walk_their_prior():
    paths = Paths(PathConfig(points=200, modes=5, spread=2.0))
    z = torch.randn(4000, 5, 2, generator=seeded_generator("cpu", 0))
    points = paths.points(z)
    assert torch.allclose(points[:, 0], torch.tensor([-2.5, 0.0]).expand(4000, 2), atol=0.6)
    assert torch.allclose(points[:, -1], torch.tensor([2.5, 0.0]).expand(4000, 2), atol=0.6)
    # variance half way: sum over odd k of (spread / k)^2
    known = sum((2.0 / k) ** 2 for k in (1, 3, 5))
    assert float(points[:, 100, 1].var()) == pytest.approx(known, rel=0.1)
    assert float(paths.prior()(z[:1])) == pytest.approx(float(z[0].square().sum() / 2), rel=1e-5)


def test_quantifiers_over_the_points_of_a_path():
    paths = Paths(PathConfig(points=3, modes=1))
    z = torch.zeros(1, 1, 2)  # the straight line: points at -1.25, 0 and 1.25
    spot = gaussian([0.0, 0.0], 0.1)
    values = of_x(spot)(paths.points(z)[0])
    assert float(paths.along(spot)(z)) == pytest.approx(float(values.sum()), rel=1e-5)
    assert float(paths.through(spot, 2.0)(z)) == pytest.approx(-2 * float((-values).logsumexp(0)), rel=1e-5)
    assert passes(paths.points(z), torch.tensor([0.0, 0.2]), 0.3).tolist() == [True]
    assert passes(paths.points(z), torch.tensor([0.0, 0.5]), 0.3).tolist() == [False]


def test_paths_take_the_way_that_a_composed_energy_asks_for():
    paths = Paths(PathConfig(points=12, modes=3, spread=2.0))
    walk = HMCConfig(steps=10, step_size=0.1, leapfrog=5, adapt=5)
    energy = paths.prior() + paths.through(gaussian([0.0, 2.5], 0.4), 4.0)
    chain = paths.sample(energy, 32, seeded_generator("cpu", 0), walk)
    above = passes(paths.points(chain.x), torch.tensor([0.0, 2.5]), 0.8).float().mean()
    free = paths.sample(paths.prior(), 32, seeded_generator("cpu", 0), walk)
    alone = passes(paths.points(free.x), torch.tensor([0.0, 2.5]), 0.8).float().mean()
    assert above > 0.9
    assert alone < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlaneConfig(learning="magic"), "accepted are denoising, contrastive"),
        (lambda: PlaneConfig(width=0), "width: 0"),
        (lambda: Grid(0.0), "grid"),
        (lambda: PathConfig(points=0), "points: 0"),
        (lambda: PathConfig(spread=0.0), "spread"),
    ],
)
def test_bad_settings_are_answered(make, message):
    with pytest.raises(InputError, match=message):
        make()


def command(call_script_path, *argv):
    from ebm_traj.cli import run
    from ebm_traj.image.commands import playground

    run(playground.main, playground.Args, ["--out", str(call_script_path), *argv])


def test_the_command_writes_its_report_and_refuses_bad_input(tmp_path, capsys, monkeypatch):
    import ebm_traj.image.playground as playground
    import ebm_traj.image.playground_study as study

    monkeypatch.setattr(playground, "WALK", LangevinConfig(steps=5, step_size=0.02, metropolis=True))
    monkeypatch.setattr(study, "path_study", lambda ring, count, seed: path_study_small(ring, count, seed))
    tiny = [
        "--densities",
        "ring",
        "--learnings",
        "denoising",
        "--paths",
        "4",
        "--samples",
        "20",
        "--plane.width",
        "16",
    ]
    tiny += ["--plane.trainer.iterations", "5", "--plane.samples", "600"]
    command(tmp_path / "out", *tiny)
    content = json.loads((tmp_path / "out" / "playground.json").read_text())
    assert content["learnt"][0]["density"] == "ring"
    assert math.isfinite(content["learnt"][0]["kl"])
    assert {row["name"] for row in content["composed"]} == {"ring and bar", "ring or bar", "ring, not bar"}
    for name in ("playground.md", "landscapes.png", "composed.png", "paths.png"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    for argv, message in (
        ((tmp_path / "out", *tiny), "exists"),
        ((tmp_path / "new", "--densities", "banana"), "'banana'; accepted are"),
        ((tmp_path / "new", "--learnings", "magic"), "accepted are denoising"),
        ((tmp_path / "new", "--paths", "-1"), "--paths -1"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def path_study_small(ring, count, seed):
    """The study of paths with walks cut short."""
    from unittest.mock import patch

    import ebm_traj.image.plane_composition as composition

    short = HMCConfig(steps=2, step_size=0.05, leapfrog=2)
    with patch.object(composition.Paths.sample, "__defaults__", (None, short)):
        return path_study(ring, count, seed)


def test_samples_from_anywhere_have_the_modes_in_their_shares():
    density = ring()
    x = walk_anywhere(density, density.extent, 1600, seeded_generator("cpu", 0)).x
    mode = (x[:, None] - density.means).square().sum(-1).argmin(1)
    shares = torch.bincount(mode, minlength=8) / len(x)
    assert float((shares - 1 / 8).abs().max()) < 4 * math.sqrt(1 / 8 * 7 / 8 / len(x))
