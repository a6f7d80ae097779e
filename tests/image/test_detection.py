"""Detection: AUROC in closed form, the scores of an energy that is known, and the sets that are made."""

import json
import math

import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.image.detection import DetectionConfig, auroc, bootstrap, detect, limits
from ebm_traj.image.detection_report import FIGURE, FIGURES, PAGE, write_report
from ebm_traj.image.other_sets import MADE, SYNTHETIC, first_rows, make, named_sets, other_pictures
from ebm_traj.image.typicality import PLAIN, png_bits, read_energies, scores, spaced_levels

RNG = np.random.default_rng


def streams():
    return RNG(1), RNG(2)


def test_auroc_of_two_gaussians_is_that_of_the_closed_form():
    rng = RNG(0)
    apart, spread = 0.8, 1.7
    out, own = apart + spread * rng.normal(size=20_000), rng.normal(size=20_000)
    expected = 0.5 * (1 + math.erf(apart / math.sqrt(1 + spread**2) / math.sqrt(2)))
    assert abs(auroc(out, own) - expected) < 0.01
    assert abs(auroc(np.exp(out), np.exp(own)) - auroc(out, own)) < 1e-12
    assert abs(auroc(own, out) - (1 - auroc(out, own))) < 1e-12


def test_ties_count_one_half():
    out, own = RNG(1).integers(0, 4, 50), RNG(2).integers(0, 4, 70)
    pairs = (out[:, None] > own) + 0.5 * (out[:, None] == own)
    assert abs(auroc(out, own) - pairs.mean()) < 1e-12
    assert auroc([1, 1, 1], [1, 1]) == 0.5
    assert auroc([2, 3], [1, 1]) == 1.0


def test_the_bootstrap_covers_the_true_value_about_as_often_as_it_says():
    expected = 0.5 * (1 + math.erf(0.5))  # two Gaussians of unit variance, sqrt(2) * 0.5 * sqrt(2) apart
    hits = []
    for seed in range(100):
        rng = RNG(seed)
        out, own = 1.0 + rng.normal(size=60), rng.normal(size=80)
        low, high = limits(bootstrap(out, own, 200, *(RNG([seed, k]) for k in (1, 2))))
        hits.append(low <= expected <= high)
    assert 0.86 <= np.mean(hits) <= 1.0


def test_bootstrap_draws_are_the_aurocs_of_sets_drawn_anew():
    out, own = RNG(0).normal(size=30), RNG(1).normal(size=40)
    found = bootstrap(out, own, 3, *streams())
    out_rng, own_rng = streams()
    outs = out_rng.multinomial(30, np.full(30, 1 / 30), 3)
    owns = own_rng.multinomial(40, np.full(40, 1 / 40), 3)
    again = [auroc(np.repeat(out, a), np.repeat(own, b)) for a, b in zip(outs, owns, strict=True)]
    np.testing.assert_allclose(found, again)


def test_scores_that_are_not_finite_and_empty_sets_are_refused():
    with pytest.raises(InputError, match="1 scores of outside pictures are not finite"):
        bootstrap([0.0, math.nan], [1.0], 3, *streams())
    with pytest.raises(InputError, match="no scores of own pictures"):
        bootstrap([0.0], [], 3, *streams())


class GaussianPixels:
    """E(x, s) = |x|^2 / 2 (d^2 + s^2), the energy of independent pixels of standard deviation d."""

    def __init__(self, spread=0.3, levels=True):
        self.spread, self.has_levels = spread, levels

    def energy_at(self, sigma=None, labels=None):
        assert (sigma is not None) == self.has_levels
        variance = self.spread**2 + (0 if sigma is None else sigma**2)
        return lambda x: x.square().flatten(1).sum(1) / (2 * variance)


def own_pictures(count, seed, spread=0.3):
    x = spread * RNG(seed).normal(size=(count, 8, 8, 1))
    return np.clip(np.rint(127.5 * (x + 1)), 0, 255).astype(np.uint8)


def test_readings_are_energy_and_gradient_at_each_level():
    x = own_pictures(7, 0)
    sigmas = spaced_levels(0.1, 1.0, 3)
    np.testing.assert_allclose(sigmas, [0.1, math.sqrt(0.1), 1.0])
    found = read_energies(GaussianPixels(), x, sigmas, batch=3)
    floats = x.reshape(7, -1) / 127.5 - 1
    for place, sigma in enumerate(sigmas):
        variance = 0.3**2 + sigma**2
        squares = (floats**2).sum(1)
        np.testing.assert_allclose(found.energy[:, place], squares / (2 * variance), rtol=1e-4)
        np.testing.assert_allclose(found.slope[:, place], sigma * np.sqrt(squares / 64) / variance, rtol=1e-4)
    plain = read_energies(GaussianPixels(levels=False), x, sigmas)
    assert plain.sigmas == (0.0,) and plain.energy.shape == (7, 1)
    assert (plain.bits == png_bits(x)).all() and png_bits(np.zeros_like(x))[0] < plain.bits.min()


def test_scores_of_a_known_energy_see_what_they_should():
    """Too quiet a picture has low energy, so only scores of what is usual see it; a loud one is seen by
    all."""
    model, sigmas = GaussianPixels(), (0.1, 0.5)
    held_out, own = own_pictures(200, 1), own_pictures(200, 2)
    every = scores(read_energies(model, held_out, sigmas))
    inside = read_energies(model, own, sigmas)
    quiet = read_energies(model, own_pictures(200, 3, 0.2), sigmas)
    loud = read_energies(model, own_pictures(200, 4, 0.4), sigmas)
    found = {name: (auroc(f(quiet), f(inside)), auroc(f(loud), f(inside))) for name, f in every.items()}
    assert next(iter(found)) == PLAIN
    assert found[PLAIN][0] < 0.05 and found[PLAIN][1] > 0.95
    assert found["gradient norm"][0] < 0.05 and found["gradient norm"][1] > 0.95
    for name in ("typicality", "gradient typicality", "energies, Gaussian", "score norms, Gaussian"):
        assert min(found[name]) > 0.9, name


def test_made_sets_are_what_they_say_and_the_same_for_the_same_seed():
    x = own_pictures(12, 5)
    for name in (*MADE, *SYNTHETIC):
        found = make(name, x, 3)
        assert found.shape == x.shape and found.dtype == np.uint8
        assert (found == make(name, x, 3)).all()
        assert (found != x).any()
    mixed = make("interpolations", x, 0).astype(float)
    halves = 0.5 * (x[:, None].astype(float) + x[None])
    nearest = np.abs(mixed[:, None, None] - halves).max((3, 4, 5)).min((1, 2))
    assert (nearest <= 0.5).all()  # each is the mean of two pictures, to eight bits
    assert (make("monochrome", x, 0).reshape(12, -1).std(1) == 0).all()
    assert 115 < make("uniform", own_pictures(100, 6), 0).mean() < 140
    for name in ("shuffled", "rotated"):  # move pixels, change none
        moved = make(name, x, 0).reshape(12, -1)
        assert (np.sort(moved, 1) == np.sort(x.reshape(12, -1), 1)).all()
    wide = np.abs(np.diff(x.astype(float), axis=1)).mean()
    assert np.abs(np.diff(make("blurred", x, 0).astype(float), axis=1)).mean() < 0.5 * wide


def test_other_sets_pass_through_the_same_preprocessing(tmp_path):
    x = RNG(0).integers(0, 256, (30, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "other.npz", x=x, y=np.zeros(30, np.int64))
    found = other_pictures(str(tmp_path / "other.npz"), own_pictures(5, 0), (1, 8, 8), 100, 0)
    assert found.shape == (30, 8, 8, 1)  # all of it, as it has no parts
    few = other_pictures(str(tmp_path / "other.npz"), own_pictures(5, 0), (1, 8, 8), 7, 0)
    assert len(few) == 7 and (first_rows(found, 7, 0, "other.npz") == few).all()
    assert named_sets(["uniform", f"a={tmp_path}/other.npz"]) == {
        "uniform": "uniform",
        "a": f"{tmp_path}/other.npz",
    }
    with pytest.raises(InputError, match="no such path; accepted beside paths are interpolations"):
        named_sets([str(tmp_path / "none.npz")])
    with pytest.raises(InputError, match="stands twice"):
        named_sets(["uniform", "uniform"])


def test_a_study_reports_every_score_and_chooses_by_synthetic_sets_alone(tmp_path):
    held_out, own = own_pictures(120, 7), own_pictures(90, 8)
    others = {"quiet": own_pictures(80, 9, 0.1), "uniform": make("uniform", own, 0)}
    config = DetectionConfig(resamples=20)
    found = detect(GaussianPixels(), (0.1, 0.5), held_out, own, others, config)
    swapped = detect(GaussianPixels(), (0.1, 0.5), held_out, own, {"uniform": others["uniform"]}, config)
    assert found.synthetic == swapped.synthetic and found.chosen == swapped.chosen
    assert found.found[PLAIN]["uniform"] == swapped.found[PLAIN]["uniform"]
    value, low, high = found.means[PLAIN]
    assert low <= value <= high
    assert abs(value - np.mean([found.found[PLAIN][name][0] for name in others])) < 1e-12
    page = write_report(found, tmp_path / "out", {"seed": 0}, "python x").read_text()
    assert page.count("| **") == 2 and PLAIN in page
    saved = json.loads((tmp_path / "out" / FIGURES).read_text())
    assert saved["auroc"][PLAIN]["quiet"]["auroc"] == found.found[PLAIN]["quiet"][0]
    assert (tmp_path / "out" / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / PAGE).is_file()
    with pytest.raises(InputError, match="set x: pictures of"):
        detect(GaussianPixels(), (0.1,), held_out, own, {"x": np.zeros((3, 9, 9, 1), np.uint8)}, config)


def test_too_few_held_out_pictures_are_named():
    with pytest.raises(InputError, match="3 held-out pictures; needed are"):
        scores(read_energies(GaussianPixels(), own_pictures(3, 0), spaced_levels(0.1, 1, 4)))
