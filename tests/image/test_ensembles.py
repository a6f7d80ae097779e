"""Ensembles of models whose densities are Gaussian, so that sums, means and mixtures are known."""

import math

import pytest
import torch

from ebm_traj.core.checkpoint import save_tensors
from ebm_traj.core.hmc import HMCConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.image.ensembles import Ensemble, load_ensemble, load_training_checkpoint
from ebm_traj.image.model import load_image_model
from ebm_traj.image.sampling import draw, even_labels, own_sampler, sample

X = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def members(class_pictures, has_levels=False, values=(0.0, 0.4), spread=0.2):
    return [class_pictures(torch.full((1, 1, 2, 2), v), spread, has_levels) for v in values]


def test_energies_add_average_and_mix(class_pictures):
    models = members(class_pictures)
    one, two = (model.energy_at()(X) for model in models)
    torch.testing.assert_close(Ensemble(models, "sum").energy_at()(X), one + two)
    torch.testing.assert_close(Ensemble(models, "mean").energy_at()(X), (one + two) / 2)
    mixed = -torch.log((torch.exp(-one) + torch.exp(-two)) / 2)
    torch.testing.assert_close(Ensemble(models, "mixture").energy_at()(X), mixed)
    # levels and classes reach every member
    models = members(class_pictures, True)
    level, labels = torch.full((5,), 0.3), torch.zeros(5).long()
    expected = sum(model.energy_at(level, labels)(X) for model in models)
    torch.testing.assert_close(Ensemble(models, "sum").energy_at(level, labels)(X), expected)


@pytest.mark.parametrize(("way", "variance"), [("sum", 0.02), ("mean", 0.04), ("alternate", 0.04)])
def test_chains_on_an_ensemble_have_its_mean_and_spread(way, variance, class_pictures):
    model = Ensemble(members(class_pictures), way)
    chain = LangevinConfig(steps=200, step_size=0.002)
    start = torch.zeros(1500, 1, 2, 2)
    generator = torch.Generator().manual_seed(0)
    found = draw(model, 1500, sampler=chain, start=start, generator=generator).x
    assert float(found.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(found.var()) == pytest.approx(variance, rel=0.1)


def test_alternation_begins_anew_with_each_call_of_sample(class_pictures):
    model = Ensemble(members(class_pictures), "alternate")
    chain = LangevinConfig(steps=5, step_size=0.002)  # an odd number of turns
    one, two = (sample(model, 4, sampler=chain, seed=0).x for _ in range(2))
    assert torch.equal(one, two)


def test_alternation_takes_each_member_s_gradient_in_turn(class_pictures):
    model = Ensemble(members(class_pictures, values=(0.0, 1.0, 2.0), spread=1.0), "alternate")
    energy = model.energy_at()
    zero = torch.zeros(1, 1, 2, 2)
    values = [float(energy(zero)) for _ in range(5)]
    assert values == pytest.approx([0.0, 2.0, 8.0, 0.0, 2.0])
    # with levels each level has one member, however often it is asked
    model = Ensemble(members(class_pictures, True, (0.0, 1.0), 1.0), "alternate")
    tiny = torch.full((1,), 1e-6)
    for expected in (0.0, 2.0, 0.0):
        energy = model.energy_at(tiny)
        assert [float(energy(zero)) for _ in range(3)] == pytest.approx([expected] * 3)


def test_alternation_refuses_metropolis_tests_and_others_do_not(class_pictures):
    chains = [LangevinConfig(steps=2, metropolis=True), HMCConfig(steps=2)]
    for chain in chains:
        draw(Ensemble(members(class_pictures), "mean"), 2, sampler=chain)
        with pytest.raises(InputError, match="in turn"):
            draw(Ensemble(members(class_pictures), "alternate"), 2, sampler=chain)


def test_models_that_disagree_are_refused(class_pictures):
    models = members(class_pictures)
    other = class_pictures(torch.zeros(1, 1, 3, 3), 0.2, False)
    with pytest.raises(InputError, match="shape"):
        Ensemble([models[0], other])
    with pytest.raises(InputError, match="has levels"):
        Ensemble([models[0], members(class_pictures, True)[0]])
    with pytest.raises(InputError, match="no models"):
        Ensemble([])
    with pytest.raises(InputError, match="way: 'vote'"):
        Ensemble(models, "vote")


def test_chains_begin_in_one_buffer_of_all_members(tiny_models):
    one, two = (load_image_model(tiny_models["chain"]) for _ in range(2))
    one.chains = {"chain": torch.full((7, 1, 8, 8), 0.25)}
    two.chains = {"chain": torch.full((7, 1, 8, 8), 0.75)}
    starts = Ensemble([one, two])._chain_starts(200, None, torch.Generator().manual_seed(0))
    assert set(starts.unique().tolist()) == {0.25, 0.75}
    assert float((starts == 0.25).double().mean()) == pytest.approx(0.5, abs=0.12)
    one.chains = two.chains = {}
    assert len(Ensemble([one, two])._chain_starts(5, None, None).unique()) > 100


def test_saved_models_and_training_checkpoints_load_as_one(tiny_models, tmp_path):
    model = load_image_model(tiny_models["conditional"])
    identity = {"config": _plain(model.config), "data": ["digits", "train", 10, 1, 8, 8]}
    averaged = {f"ema.energy.{name}": value for name, value in model.energy.state_dict().items()}
    path = tmp_path / "training.safetensors"
    save_tensors(path, averaged, {"identity": identity, "iteration": 30})
    found = load_training_checkpoint(path, 10)
    x, labels, level = torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), torch.full((2,), 0.5)
    expected = model.energy_at(level, labels)(x)
    torch.testing.assert_close(found.energy_at(level, labels)(x), expected)
    assert found.card == {"data": "digits", "iterations": 30}
    both = load_ensemble([tiny_models["conditional"], path], num_classes=10)
    torch.testing.assert_close(both.energy_at(level, labels)(x), expected)
    with pytest.raises(InputError, match="do not fit"):
        load_training_checkpoint(path, 7)
    save_tensors(path, {"a": torch.zeros(1)}, {"iteration": 1})
    with pytest.raises(InputError, match="no training checkpoint"):
        load_training_checkpoint(path, 10)


def test_an_ensemble_is_sampled_like_a_model(tiny_models):
    models = [load_image_model(tiny_models[name]) for name in ("conditional", "other")]
    for way in ("mean", "sum", "mixture", "alternate"):
        whole = Ensemble(models, way)
        assert own_sampler(whole) == models[0].config.annealing
        labels = even_labels(whole, 12)
        made = sample(whole, 12, labels, batch=5, seed=1, shown=2)
        again = sample(Ensemble(models, way), 12, labels, batch=5, seed=1)
        assert made.x.isfinite().all() and torch.equal(made.x, again.x)
        assert made.trace is not None and made.trace.shape[1:] == (2, 1, 8, 8)
        assert labels.tolist() == [*range(10), 0, 1]
    alone = sample(Ensemble(models[:1], "mean"), 4, torch.zeros(4).long(), seed=3).x
    torch.testing.assert_close(alone, sample(models[0], 4, torch.zeros(4).long(), seed=3).x)


def test_a_sample_asks_for_what_the_model_has(tiny_models, smooth_pictures):
    model = smooth_pictures()
    with pytest.raises(InputError, match="unconditional"):
        sample(model, 2, torch.zeros(2).long())
    with pytest.raises(InputError, match="samples: 0"):
        sample(model, 0)
    conditional = load_image_model(tiny_models["conditional"])
    with pytest.raises(InputError, match="0 to 9"):
        sample(conditional, 1, torch.tensor([10]))
    with pytest.raises(InputError, match="1 of them for 2"):
        sample(conditional, 2, torch.tensor([1]))
    with pytest.raises(InputError, match="no noise levels"):
        draw(smooth_pictures(has_levels=False), 2, sampler=own_sampler(model))


def _plain(config):
    import dataclasses
    import json

    return json.loads(json.dumps(dataclasses.asdict(config)))


def test_a_mixture_of_equal_members_is_one_of_them(class_pictures):
    models = members(class_pictures, values=(0.1, 0.1, 0.1))
    mixed = Ensemble(models, "mixture").energy_at()(X)
    torch.testing.assert_close(mixed, models[0].energy_at()(X))
    assert math.isclose(float(mixed[0]), float(models[0].energy_at()(X)[0]), rel_tol=1e-5)
