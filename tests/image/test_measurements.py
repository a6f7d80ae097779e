"""What is seen of a picture: dense matrices, closed forms and what is refused."""

import math

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.image.measurements import block_mean, gaussian_blur, masked, noisy, separable


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


X = torch.randn(3, 2, 6, 4, generator=generator()).double()


def test_a_blur_in_its_basis_is_the_blur_of_pixels():
    rows, columns = gaussian_blur(6, 1.3), gaussian_blur(4, 0.7)
    seen = separable(X, rows, columns, 1e-9)
    torch.testing.assert_close(seen.analyse(seen.synthesise(X)), X)
    # |A x - y| is the same in any orthogonal basis
    other = torch.randn(X.shape, generator=generator(1)).double()
    there = 0.5 * ((rows @ (other - X) @ columns.T) ** 2).flatten(1).sum(1) / 0.3**2
    noiseless = type(seen)(seen.seen, seen.gains, 0.3, seen.rows, seen.columns)
    torch.testing.assert_close(noiseless.energy(other), there, rtol=1e-6, atol=0)


def test_blur_and_coarse_grid_keep_a_flat_picture_flat():
    assert gaussian_blur(7, 2.0).sum(1) == pytest.approx(torch.ones(7).double())
    assert (gaussian_blur(7, 2.0) @ torch.ones(7).double()) == pytest.approx(torch.ones(7).double())
    assert block_mean(6, 3) @ torch.arange(6).double() == pytest.approx(torch.tensor([1.0, 4.0]).double())
    flat = torch.full((1, 1, 6, 4), 0.3).double()
    coarse = separable(flat, block_mean(6, 2), block_mean(4, 2), 1e-9)
    torch.testing.assert_close(coarse.picture(), flat)


def test_the_picture_of_a_coarse_grid_shows_block_means():
    seen = separable(X, block_mean(6, 3), block_mean(4, 2), 1e-9)
    blocks = X.view(3, 2, 2, 3, 2, 2).mean((3, 5))
    torch.testing.assert_close(seen.picture(), blocks.repeat_interleave(3, 2).repeat_interleave(2, 3))


def test_the_draw_given_both_has_the_precision_of_both():
    seen = noisy(X[:1, :1], 0.5, generator(1)).repeat(20_000)
    at = torch.zeros_like(seen.seen)
    drawn = seen.draw(at, 0.25, generator(2))
    precision = 1 / 0.5**2 + 1 / 0.25**2
    torch.testing.assert_close(drawn.mean(0), seen.seen[0] / 0.5**2 / precision, atol=0.01, rtol=0)
    assert float((drawn - drawn.mean(0)).var()) == pytest.approx(1 / precision, rel=0.02)
    torch.testing.assert_close(seen.nearest(at, 0.25)[0], seen.seen[0] / 0.5**2 / precision)


def test_replacing_gives_noise_of_the_level_and_leaves_what_is_noisier():
    known = torch.tensor([True, False, True, False])
    seen = masked(X[:1, :1], known, 0.1, generator(1)).repeat(20_000)
    at = torch.zeros_like(seen.seen)
    placed = seen.replace(at, 0.5, generator(2))
    assert torch.equal(placed[..., ~known], at[..., ~known])
    # y itself has noise of 0.1, so what is added makes 0.5 in all about the truth
    assert float((placed - seen.seen)[..., known].var()) == pytest.approx(0.5**2 - 0.1**2, rel=0.02)
    assert torch.equal(seen.replace(at, 0.05, generator(2)), at)


def test_energy_widens_with_the_level_and_refuses_certainty():
    known = torch.rand(6, 4, generator=generator()) < 0.5
    seen = masked(X, known)
    other = torch.randn(X.shape, generator=generator(1)).double()
    off = ((other - X) ** 2)[..., known].flatten(1).sum(1)
    level = torch.tensor([0.5, 1.0, 2.0]).double()
    torch.testing.assert_close(seen.energy(other, level), off / (2 * level**2))
    torch.testing.assert_close(seen.energy(other, level, widen=4.0), off / (8 * level**2))
    with pytest.raises(InputError, match="infinite"):
        seen.energy(other)
    torch.testing.assert_close(seen.residual(other), (off / (2 * known.sum())).sqrt())


def test_masks_of_each_picture_and_rows_go_together():
    known = torch.rand(3, 1, 6, 4, generator=generator()) < 0.5
    seen = masked(X, known)
    twice = seen.repeat(2)
    assert torch.equal(twice.gains[2], seen.gains[1]) and torch.equal(twice.seen[3], seen.seen[1])
    assert torch.equal(twice.take(slice(2, 4)).gains[0], seen.gains[1])
    assert seen.of_pixels and not seen.whole and noisy(X, 0.1).whole


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: masked(X, torch.ones(6, 4)), "float32"),
        (lambda: masked(X, torch.ones(5, 4, dtype=torch.bool)), "shape"),
        (lambda: noisy(X, -1.0), "noise"),
        (lambda: noisy(X, math.nan), "noise"),
        (lambda: separable(X, gaussian_blur(6, 1.0), gaussian_blur(6, 1.0), 0.1), "6 x 4"),
        (lambda: separable(X, gaussian_blur(6, 1.0), gaussian_blur(4, 1.0), 0.0), "above 0"),
        (lambda: gaussian_blur(6, 0.0), "above 0"),
        (lambda: block_mean(6, 4), "cannot be cut"),
        (lambda: masked(X[0], torch.ones(6, 4, dtype=torch.bool)), "accepted is"),
    ],
)
def test_bad_measurements_are_refused(make, match):
    with pytest.raises(InputError, match=match):
        make()
