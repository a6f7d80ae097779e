"""Restoration against dense linear algebra and Gaussian pictures."""

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.image.measurements import gaussian_blur, noisy
from ebm_traj.image.posterior import PosteriorConfig
from ebm_traj.image.restoration import RIDGE, Damage, Restored, calibration, psnr, restore, tweedie, wiener


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_from(model, count, seed=0):
    root = torch.linalg.cholesky(model.covariance)
    flat = model.flat_mean + torch.randn(count, len(root), generator=generator(seed)).double() @ root.T
    return flat.view(count, *model.shape)


@pytest.mark.parametrize("text", ["noise:0.4", "blur:1:0.1", "missing:0.5:0.1", "coarse:2:0.1"])
def test_draws_of_gaussian_pictures_miss_the_truth_as_they_say_and_match_the_linear_filter(
    text, smooth_pictures
):
    model = smooth_pictures()
    x = drawn_from(model, 60, 1)
    measurement = Damage.read(text).of(x, generator(2))
    found = restore(model, measurement, 40, PosteriorConfig("moments", levels=12, repeats=8), batch=2400)
    assert calibration(found, x) == pytest.approx(1.0, abs=0.1)
    linear = wiener(measurement, drawn_from(model, 20_000, 3))
    error = psnr(found.mean, x).mean() - psnr(linear, x).mean()
    # a mean of 40 draws misses by a fortieth of their variance more: 10 log10(41 / 40) = 0.11 dB
    assert -0.3 < float(error) < 0.1


def test_the_linear_filter_is_the_dense_formula(smooth_pictures):
    model = smooth_pictures((1, 4, 4))
    train, x = drawn_from(model, 300), drawn_from(model, 3, 1)
    blur, noise = gaussian_blur(4, 1.0), 0.1
    measurement = Damage("blur", 1.0, noise).of(x, generator(2))
    matrix = torch.kron(blur, blur)
    basis = torch.stack(
        [measurement.analyse(e.view(1, 1, 4, 4)).flatten() for e in torch.eye(16).double()], 1
    )
    seen = measurement.gains.flatten()[:, None] * basis  # the same map in the measurement's own basis
    torch.testing.assert_close(seen.T @ seen, matrix.T @ matrix)
    mean, covariance = train.flatten(1).mean(0), torch.cov(train.flatten(1).T)
    covariance = covariance + RIDGE * torch.eye(16).double()
    gain = (
        covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + noise**2 * torch.eye(16).double())
    )
    expected = mean + (measurement.seen.flatten(1) - seen @ mean) @ gain.T
    torch.testing.assert_close(wiener(measurement, train).flatten(1), expected, atol=1e-6, rtol=0)


def test_one_gradient_denoises_gaussian_pictures_exactly(smooth_pictures):
    model = smooth_pictures()
    x = drawn_from(model, 4, 1)
    measurement = noisy(x, 0.3, generator(2))
    expected = [model.given(torch.eye(16).double(), seen.flatten(), 0.3)[0] for seen in measurement.seen]
    torch.testing.assert_close(tweedie(model, measurement).flatten(1), torch.stack(expected))
    with pytest.raises(InputError, match="noise alone"):
        tweedie(model, Damage("missing", 0.5).of(x, generator()))


def test_damage_does_what_it_says():
    x = torch.rand(200, 1, 8, 8, generator=generator()) * 2 - 1
    noise = Damage.read("noise:0.5").of(x, generator(1))
    assert float((noise.seen - x).std()) == pytest.approx(0.5, rel=0.02)
    missing = Damage.read("missing:0.7").of(x, generator(1))
    assert float(missing.gains.mean()) == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(missing.gains[0], missing.gains[1])  # each picture lacks pixels of its own
    coarse = Damage.read("coarse:4").of(x, generator(1))
    blocks = x.view(200, 1, 2, 4, 2, 4).mean((3, 5)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    off = coarse.picture() - blocks  # noise of 0.05 on each block mean
    assert float(off.std()) == pytest.approx(0.05, rel=0.1)
    assert Damage.read("blur:2").noise == 0.05 and Damage.read("missing:0.5").noise == 0


def test_psnr_and_calibration_in_closed_form():
    truth = torch.zeros(1, 1, 2, 2)
    assert float(psnr(truth + 0.2, truth)) == pytest.approx(20.0)
    drawn = 0.3 * torch.randn(500, 4, 1, 3, 3, generator=generator())
    truth = 0.3 * torch.randn(500, 1, 3, 3, generator=generator(1))
    assert calibration(Restored(drawn, 1), truth) == pytest.approx(1.0, abs=0.05)
    assert calibration(Restored(0.5 * drawn, 1), truth) > 1.6


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("noise", "accepted are noise"),
        ("noise:0.1:0.2", "accepted are noise"),
        ("blur:x", "no number"),
        ("noise:0", "above 0"),
        ("missing:1", "below 1"),
        ("coarse:1", "above 1"),
        ("coarse:2.5", "whole pixels"),
        ("rain:1", "accepted are noise"),
    ],
)
def test_bad_damage_is_refused(text, match):
    with pytest.raises(InputError, match=match):
        Damage.read(text)


def test_a_block_that_does_not_fit_and_a_single_draw_are_refused(smooth_pictures):
    with pytest.raises(InputError, match="cannot be cut"):
        Damage.read("coarse:3").of(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="draws: 1"):
        restore(smooth_pictures(), noisy(torch.zeros(1, 1, 4, 4).double(), 0.1), 1)
