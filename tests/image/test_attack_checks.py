"""The checks of an attack: they pass where gradients are honest, and give away a defence that hides them."""

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.image.attack_checks import ALL, Check, ChecksConfig, check_attack, straight_through, table
from ebm_traj.image.attack_square import square
from ebm_traj.image.attacks import PGDConfig, margin
from ebm_traj.image.robustness import Arm, RobustnessConfig

SHAPE = (1, 6, 6)
QUICK = RobustnessConfig(
    linf=(0.1,),
    l2=(),
    attack=PGDConfig(steps=10, restarts=1),
    adaptive=PGDConfig(steps=6, restarts=0, eot=2, recheck=4),
    draws=4,
)


def linear(seed=0):
    weight = torch.randn(2, 36, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weight, lambda x, generator: x.flatten(1) @ weight.T


def pictures(logits, count=40):
    x = 0.5 * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.clamp(-1, 1)
    return x, logits(x, None).argmax(1)


def test_squares_stay_in_the_ball_and_near_the_closed_form():
    weight, logits = linear()
    x, y = pictures(logits)
    apart = (weight[1] - weight[0]).view(SHAPE) * (1 - 2 * y).view(-1, 1, 1, 1)
    best = margin(logits((x + 0.2 * apart.sign()).clamp(-1, 1), None), y)
    few, many = (square(logits, x, y, 0.1, n, torch.Generator().manual_seed(0)) for n in (1, 600))
    for found in (few, many):
        assert (found.x - x).abs().max() <= 0.2 + 1e-12 and found.x.abs().max() <= 1
        torch.testing.assert_close(found.margin, margin(logits(found.x, None), y))
        assert torch.equal(found.misread > 0, found.margin > 0)
        assert (found.margin <= best + 1e-9).all()
    start = margin(logits(x, None), y)
    gained = ((many.margin - start) / (best - start)).mean()
    assert gained > 0.8 and gained > ((few.margin - start) / (best - start)).mean() + 0.3


def test_identity_in_place_of_refinement_keeps_the_answer_and_changes_the_gradient():
    _, logits = linear(2)
    x, _ = pictures(logits, 3)
    x.requires_grad_(True)
    through = straight_through(logits, lambda x, generator: 0.1 * x**3)
    assert torch.equal(through(x, None), logits(x + (0.1 * x**3 - x), None))
    (gradient,) = torch.autograd.grad(through(x, None)[:, 0].sum(), x)
    (direct,) = torch.autograd.grad(logits(x, None)[:, 0].sum(), x)
    assert torch.equal(gradient, direct)


def accuracies(found):
    return {check.name: check.accuracy for check in found}


def test_an_honest_classifier_passes_every_check():
    _, logits = linear()
    other = linear(5)[1]
    x, y = pictures(logits)
    noisy = Arm(
        lambda x, g: logits(x + 0.01 * torch.empty_like(x).normal_(generator=g), None),
        random=True, starts=("bare",),
    )  # fmt: skip
    arms = {"other": Arm(other), "bare": Arm(logits), "noisy": noisy}
    checks = ChecksConfig(count=40, radius=0.03, far=0.6, queries=80)
    found = check_attack(arms, "noisy", x, y, QUICK, checks, surrogates={"bare": logits})
    at = accuracies(found)
    assert at["no attack"] > 0.9 and 0.1 < at["the attack"] < 0.8
    assert at["noise of the radius, uniform"] > at["the attack"] + 0.1
    assert at["found against: other"] > at["the attack"]
    assert at["squares, no gradient, 80 queries"] >= at["the attack"] - 0.02
    for stronger in ("twice the steps", "twice the draws of each gradient", "two more restarts", ALL):
        assert at["the attack"] - 0.06 <= at[stronger] <= at["the attack"] + 0.06
    assert at["wide radius, 0.6"] == 0
    assert all(0 <= check.low <= check.accuracy <= check.high <= 1 for check in found)
    again = check_attack(arms, "noisy", x, y, QUICK, checks, surrogates={"bare": logits})
    assert again == found


def test_a_defence_that_hides_its_gradient_is_given_away():
    """Pixels in steps of 1/4: flat almost everywhere, so that no gradient leads anywhere."""
    _, logits = linear()
    hidden = Arm(lambda x, g: logits((4 * x).round() / 4 + 0 * x, None))
    x, y = pictures(logits)
    y = hidden.logits(x, None).argmax(1)
    config = RobustnessConfig(linf=(0.1,), l2=(), attack=PGDConfig(steps=10, restarts=0), draws=1)
    checks = ChecksConfig(count=40, radius=0.1, far=0.6, queries=150)
    arms = {"bare": Arm(logits), "hidden": hidden}
    identity = straight_through(logits, lambda x, g: (4 * x).round() / 4)
    at = accuracies(check_attack(arms, "hidden", x, y, config, checks, surrogates={"identity": identity}))
    assert at["the attack"] == 1.0 == at["twice the steps"]
    assert at["wide radius, 0.6"] > 0.9  # asked: 0
    for stronger in ("squares, no gradient, 150 queries", "identity", "found against: bare", ALL):
        assert at[stronger] < 0.6  # asked: not lower than the attack


def test_table_and_bad_input():
    assert "| the attack | 50.0 [20, 80] | 0 |" in table([Check("the attack", 0.5, 0.2, 0.8, "0")], 0.1, 8)
    for bad, said in (({"count": -1}, "count"), ({"radius": 0.7}, "far"), ({"queries": 0}, "queries")):
        with pytest.raises(InputError, match=said):
            ChecksConfig(**bad)
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(InputError, match="queries"):
        square(linear()[1], x, torch.zeros(1, dtype=torch.int64), 0.1, 0, torch.Generator())
