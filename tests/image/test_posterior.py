"""Draws given what was seen, against Gaussian pictures whose conditional density is known."""

import math

import pytest
import torch

from ebm_traj.core.hmc import HMCConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.image.measurements import block_mean, gaussian_blur, masked, noisy, separable
from ebm_traj.image.moments import conjugate_gradients, denoised_given
from ebm_traj.image.posterior import PosteriorConfig, ancestral_step, draw_in_batches, draw_posterior
from ebm_traj.image.sampling import energy_of_levels

DRAWS = 1500
UPPER = torch.tensor([True, True, False, False]).view(4, 1).expand(4, 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_picture(model, seed=0):
    root = torch.linalg.cholesky(model.covariance)
    flat = model.flat_mean + root @ torch.randn(len(model.flat_mean), generator=generator(seed)).double()
    return flat.view(1, *model.shape)


def matrix_of(measurement):
    """A (n, n) and y (n,) in the basis where the measurement lives, from its own `analyse`."""
    size = measurement.seen[0].numel()
    unit = torch.eye(size).double().view(size, *measurement.shape[1:])
    basis = torch.stack([measurement.analyse(e[None]).flatten() for e in unit], 1)
    gains = measurement.gains.expand_as(measurement.seen[:1]).flatten()
    return gains[:, None] * basis, measurement.seen[0].flatten()


def moments(measurement, config, model):
    """Mean and covariance of draws, and those that are exact."""
    matrix, seen = matrix_of(measurement)
    used = (matrix != 0).any(1)
    exact = model.given(matrix[used], seen[used], measurement.noise)
    chain = draw_posterior(model, measurement.repeat(DRAWS), config, generator=generator(1))
    flat = chain.x.flatten(1)
    return flat.mean(0), torch.cov(flat.T), *exact


def measurements_of(x):
    blur = gaussian_blur(4, 1.0)
    return {
        "upper half": masked(x, UPPER),
        "upper half, noisy": masked(x, UPPER, 0.2, generator(2)),
        "noise": noisy(x, 0.3, generator(2)),
        "blur": separable(x, blur, blur, 0.2, generator(2)),
        "coarse": separable(x, block_mean(4, 2), block_mean(4, 2), 0.1, generator(2)),
    }


@pytest.mark.parametrize("seen", ["upper half", "upper half, noisy", "noise", "blur", "coarse"])
def test_moments_draw_from_the_exact_conditional_density(smooth_pictures, seen):
    model = smooth_pictures()
    config = PosteriorConfig("moments", levels=24, repeats=8)
    mean, covariance, exact_mean, exact_covariance = moments(
        measurements_of(one_picture(model))[seen], config, model
    )
    spread = exact_covariance.diagonal().clamp_min(1e-12).sqrt().max()
    assert (mean - exact_mean).abs().max() < 0.1 * spread
    assert (covariance - exact_covariance).norm() < 0.1 * exact_covariance.norm()


@pytest.mark.parametrize(
    ("seen", "config"),
    [
        ("upper half", PosteriorConfig("replace", levels=24, repeats=10)),
        ("upper half", PosteriorConfig("gibbs", levels=20, repeats=5, inner=5)),
        ("upper half", PosteriorConfig("measure", levels=20, repeats=20, step_size=0.5)),
        ("blur", PosteriorConfig("gibbs", levels=12, repeats=3, inner=6)),
        ("blur", PosteriorConfig("measure", levels=12, repeats=16, step_size=0.4, metropolis=True)),
    ],
)
def test_other_ways_come_near_with_many_visits_and_nearer_than_with_few(smooth_pictures, seen, config):
    model = smooth_pictures()
    measurement = measurements_of(one_picture(model))[seen]

    def off(settings):
        mean, covariance, exact_mean, exact_covariance = moments(measurement, settings, model)
        spread = exact_covariance.diagonal().clamp_min(1e-12).sqrt().max()
        return float((mean - exact_mean).abs().max() / spread), float(
            (covariance - exact_covariance).norm() / exact_covariance.norm()
        )

    mean, covariance = off(config)
    assert mean < 0.35 and covariance < 0.3
    few = off(PosteriorConfig(config.way, levels=8, repeats=1, inner=2, step_size=config.step_size))
    assert few[0] + few[1] > 1.5 * (mean + covariance)


def test_the_mean_of_draws_is_the_wiener_filter(smooth_pictures):
    # stationary texture: circulant covariance, so that the Wiener filter is a product of spectra
    size, noise = 6, 0.4
    offsets = torch.minimum(torch.arange(size), size - torch.arange(size)).double()
    row = torch.exp(-offsets)
    circulant = torch.stack([row.roll(i) for i in range(size)])
    model = smooth_pictures((1, size, size))
    model = type(model)((1, size, size), torch.zeros(size**2).double(), torch.kron(circulant, circulant))
    seen = noisy(one_picture(model), noise, generator(3))
    power = torch.fft.fft2(torch.outer(row, row)).real
    wiener = torch.fft.ifft2(torch.fft.fft2(seen.seen[0, 0]) * power / (power + noise**2)).real
    config = PosteriorConfig("moments", levels=16, repeats=6)
    drawn = draw_posterior(model, seen.repeat(DRAWS), config, generator=generator(1)).x
    torch.testing.assert_close(drawn.mean(0)[0], wiener, atol=0.04, rtol=0)
    # and in closed form, from one gradient at the level of the noise
    level = energy_of_levels(model)
    x = seen.seen.requires_grad_(True)
    (gradient,) = torch.autograd.grad(level(torch.full((1,), noise).double())(x).sum(), x)
    torch.testing.assert_close((x - noise**2 * gradient)[0, 0], wiener)


def test_the_denoised_picture_given_a_measurement_is_exact_at_every_level(smooth_pictures):
    model = smooth_pictures()
    measurement = measurements_of(one_picture(model))["blur"]
    matrix, seen = matrix_of(measurement)
    noised = one_picture(model, 5)
    for sigma in (0.1, 0.6, 3.0):
        # x0 is seen twice: as y, and as x with noise of sigma
        both = torch.cat([matrix / measurement.noise, torch.eye(16).double() / sigma])
        values = torch.cat([seen / measurement.noise, noised.flatten() / sigma])
        exact, _ = model.given(both, values, 1.0)
        found = denoised_given(energy_of_levels(model), noised, sigma, measurement, turns=16)
        torch.testing.assert_close(found.flatten(), exact, atol=1e-6, rtol=0)


def test_conjugate_gradients_solve_each_row_in_as_many_turns_as_dimensions():
    root = torch.randn(3, 5, 5, generator=generator()).double()
    matrices = root @ root.transpose(1, 2) + torch.eye(5)
    right = torch.randn(3, 5, generator=generator(1)).double()
    found = conjugate_gradients(lambda u: (matrices @ u[..., None])[..., 0], right, 5)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, right))


@pytest.mark.parametrize(
    "config",
    [
        LangevinConfig(steps=250, step_size=0.012),
        HMCConfig(steps=25, step_size=0.2, leapfrog=8, adapt=12),
    ],
)
@pytest.mark.parametrize("seen", ["upper half", "blur"])
def test_without_levels_chains_sample_the_conditional_density(smooth_pictures, seen, config):
    model = smooth_pictures(has_levels=False)
    mean, covariance, exact_mean, exact_covariance = moments(
        measurements_of(one_picture(model))[seen], config, model
    )
    spread = exact_covariance.diagonal().max().sqrt()
    assert (mean - exact_mean).abs().max() < 0.12 * spread
    assert (covariance - exact_covariance).norm() < 0.25 * exact_covariance.norm()


def test_a_cold_chain_weighs_the_measurement_by_its_own_temperature(smooth_pictures):
    # step and noise of a temperature of 0.04: with E scaled alike, the same density as at temperature 1
    model = smooth_pictures(has_levels=False)
    plain = model.energy_at
    model.energy_at = lambda sigma=None, labels=None: lambda x: 0.04 * plain(sigma, labels)(x)
    measurement = measurements_of(one_picture(model))["blur"]
    step = 0.3
    config = LangevinConfig(steps=250, step_size=step, noise=math.sqrt(2 * step * 0.04))
    mean, covariance, exact_mean, exact_covariance = moments(measurement, config, model)
    assert (mean - exact_mean).abs().max() < 0.12 * exact_covariance.diagonal().max().sqrt()
    assert (covariance - exact_covariance).norm() < 0.25 * exact_covariance.norm()


def test_ancestral_steps_keep_the_variance_of_every_level(smooth_pictures):
    # independent pixels of one spread: a step leads from N(0, v + s^2) to N(0, v + t^2) exactly
    model = smooth_pictures()
    model = type(model)((1, 4, 4), torch.zeros(16).double(), 0.25 * torch.eye(16).double())
    source = generator()
    x = math.sqrt(0.25 + 4) * torch.randn(4000, 1, 4, 4, generator=source).double()
    for sigma, lower in [(2.0, 1.0), (1.0, 0.3), (0.3, 0.01)]:
        x = ancestral_step(energy_of_levels(model), x, sigma, lower, source)
        assert float(x.var()) == pytest.approx(0.25 + lower**2, rel=0.02)


@pytest.mark.parametrize("way", ["moments", "replace", "gibbs", "measure"])
def test_known_pixels_come_back_to_the_bit_and_the_same_seed_gives_the_same(smooth_pictures, way):
    model = smooth_pictures()
    x = torch.cat([one_picture(model, seed) for seed in range(5)])
    measurement = masked(x, UPPER)
    config = PosteriorConfig(way, levels=4, repeats=2, inner=2)
    first = draw_in_batches(model, measurement, config, batch=2, generator=generator()).x
    again = draw_in_batches(model, measurement, config, batch=2, generator=generator()).x
    assert torch.equal(first, again) and torch.equal(first[:, :, :2], x[:, :, :2])
    assert not torch.equal(
        first, draw_in_batches(model, measurement, config, batch=2, generator=generator(1)).x
    )


@pytest.mark.parametrize("way", ["moments", "replace", "gibbs", "measure"])
def test_the_gradients_said_are_those_taken(smooth_pictures, way):
    model = smooth_pictures()
    taken = {"energy": 0}
    plain = model.energy_at

    def counting(sigma=None, labels=None):
        energy = plain(sigma, labels)

        def counted(x):
            taken["energy"] += 1
            return energy(x)

        return counted

    model.energy_at = counting
    config = PosteriorConfig(way, levels=5, repeats=3, inner=4)
    chain = draw_posterior(model, masked(one_picture(model), UPPER), config, generator=generator())
    assert chain.gradients == config.gradients
    if way == "moments":  # products with the second derivative count as two gradients each
        assert taken["energy"] == config.levels + 1 and config.gradients == 6 * (1 + 2 * (3 + 1))
    else:
        assert taken["energy"] == config.gradients


def test_what_does_not_fit_is_refused(smooth_pictures):
    model = smooth_pictures()
    x = one_picture(model)
    with pytest.raises(InputError, match="gibbs or measure"):
        draw_posterior(model, masked(x, UPPER, 0.1), PosteriorConfig("replace"))
    with pytest.raises(InputError, match="PosteriorConfig"):
        draw_posterior(model, masked(x, UPPER), LangevinConfig())
    with pytest.raises(InputError, match="no noise levels"):
        draw_posterior(smooth_pictures(has_levels=False), masked(x, UPPER), PosteriorConfig())
    with pytest.raises(InputError, match="the model's are"):
        draw_posterior(model, masked(x[..., :3], UPPER[:, :3]), PosteriorConfig())
    with pytest.raises(InputError, match="way"):
        PosteriorConfig("guess")
    with pytest.raises(InputError, match="levels"):
        PosteriorConfig(sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(InputError, match="batch"):
        draw_in_batches(model, masked(x, UPPER), PosteriorConfig(), batch=0)
