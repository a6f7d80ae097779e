"""Baselines on distributions known in closed form: what they sample, keep along a rollout, and save."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.checkpoint import from_dict, load_json, load_tensors
from ebm_traj.core.ema import EMA
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.flow import DiffusionConfig, DiffusionModel, FlowConfig, FlowModel, follow
from ebm_traj.trajectory.gaussian import MEMBER, GaussianConfig, GaussianModel
from ebm_traj.trajectory.mixture import MixtureConfig, MixtureModel
from ebm_traj.trajectory.model import CONFIG_FILE, WEIGHTS_FILE, TrajectoryModel
from ebm_traj.trajectory.network_config import NetworkConfig

NETWORK = NetworkConfig(context_frames=1, width=48, depth=2)
GENERATIVE = {
    "mixture": (MixtureModel, MixtureConfig(NETWORK)),
    "flow": (FlowModel, FlowConfig(NETWORK)),
    "diffusion": (DiffusionModel, DiffusionConfig(NETWORK)),
}
ALL = {
    "fc": (FCModel, FCConfig(NETWORK)),
    "spectral": (FCModel, FCConfig(NETWORK, spectral_norm=True)),
    "gaussian": (GaussianModel, GaussianConfig(NETWORK, members=3)),
    **GENERATIVE,
}


def spec_of(dims: int) -> StateSpec:
    """Positions whose z-scores and changes are the numbers themselves."""
    scales = {"mean": np.zeros(dims), "std": np.ones(dims), "change_std": np.ones(dims)}
    return dataclasses.replace(StateSpec.from_size(dims), **scales)


def make(kind: str, dims: int = 1, conditioning="states", **network) -> TrajectoryModel:
    cls, config = ALL[kind]
    torch.manual_seed(0)
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, **network))
    return cls(config, spec_of(dims), -np.ones(1), np.ones(1), conditioning)


def fit(model: TrajectoryModel, draw, iterations: int, rate: float = 1e-2) -> dict[str, Tensor]:
    """Adam with a falling rate and averaged weights, as the trainer does; the last step's figures."""
    objective = model.objective()
    ema = EMA(objective, 0.98)
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, iterations)
    generator = torch.Generator().manual_seed(0)
    for _ in range(iterations):
        c = torch.rand(objective.new_rows, model.condition_size, generator=generator) * 2 - 1
        loss, figures = objective(Batch(draw(c, generator), {"context": c}), generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        ema.update(objective)
    objective.load_state_dict(ema.module.state_dict())
    model.eval()
    return figures


def sloped(c: Tensor, generator: torch.Generator) -> Tensor:
    """N(2 c, (0.4 + 0.3 c)^2)"""
    return 2 * c + (0.4 + 0.3 * c) * torch.randn(c.shape, generator=generator)


def two_sided(c: Tensor, generator: torch.Generator) -> Tensor:
    """1.5 c + 1.2 in three of four cases, 1.5 c - 1.2 else, and noise of 0.15 + 0.05 c."""
    right = torch.rand(c.shape, generator=generator) < 0.75
    noise = (0.15 + 0.05 * c) * torch.randn(c.shape, generator=generator)
    return 1.5 * c + torch.where(right, 1.2, -1.2) + noise


def drawn_at(model: TrajectoryModel, c: float, rows: int = 4000) -> Tensor:
    condition = {"context": torch.full((rows, 1), c)}
    with torch.no_grad():
        return model._sample_window(condition, torch.Generator().manual_seed(5)).flatten()


@pytest.fixture(scope="module")
def fitted() -> dict[str, TrajectoryModel]:
    """Each generative baseline fitted to `two_sided`, the ensemble to `sloped`."""
    models = {kind: make(kind, architecture="residual", width=32) for kind in (*GENERATIVE, "gaussian")}
    for kind, model in models.items():
        model.config = dataclasses.replace(model.config, batch_size=128)
        fit(model, sloped if kind == "gaussian" else two_sided, 150 if kind == "gaussian" else 300)
    return models


# --- what they learn ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GENERATIVE)
@pytest.mark.parametrize("c", [-0.6, 0.5])
def test_generative_baselines_sample_both_modes_in_the_right_shares(fitted, kind, c):
    drawn = drawn_at(fitted[kind], c) - 1.5 * c
    right = drawn > 0
    assert float(right.float().mean()) == pytest.approx(0.75, abs=0.05)
    for side, mean in ((drawn[right], 1.2), (drawn[~right], -1.2)):
        # quantiles: a flow leaves a few samples between the modes
        assert float(side.median()) == pytest.approx(mean, abs=0.06)
        spread = float(side.quantile(0.84) - side.quantile(0.16)) / 2
        assert spread == pytest.approx(0.15 + 0.05 * c, rel=0.35)
    assert float(drawn.mean()) == pytest.approx(0.6, abs=0.15)
    assert float(drawn.std()) == pytest.approx((0.15**2 + 1.2**2 * 0.75) ** 0.5, rel=0.1)


@pytest.mark.parametrize("c", [-0.7, 0.0, 0.7])
def test_mean_and_spread_of_the_ensemble_follow_the_condition(fitted, c):
    drawn = drawn_at(fitted["gaussian"], c)
    assert float(drawn.mean()) == pytest.approx(2 * c, abs=0.06)
    assert float(drawn.std()) == pytest.approx(0.4 + 0.3 * c, rel=0.12)


@pytest.mark.parametrize("kind", ["fc", "spectral"])
def test_regression_gives_the_mean(kind):
    model = make(kind)
    # layers of norm 1 hold a network to slopes below 1
    slope = 0.2 if kind == "spectral" else 0.8
    fit(model, lambda c, generator: sloped(slope * c / 2, generator), 150)
    for c in (-0.5, 0.5):
        drawn = drawn_at(model, c, 10)
        assert torch.allclose(drawn, drawn[:1], atol=1e-6)
        assert float(drawn[0]) == pytest.approx(slope * c, abs=0.06)


def test_a_mixture_gives_the_density_as_its_energy(fitted):
    model = fitted["mixture"]
    context, likely, unlikely = torch.zeros(3, 1, 1), torch.full((3, 1, 1), 1.2), torch.zeros(3, 1, 1)
    good, bad = (model.energy(torch.cat([context, x], dim=1)) for x in (likely, unlikely))
    assert (good + 3 < bad).all()
    grid = torch.linspace(-6, 6, 6001)[:, None]
    density = (-model._window_energy(grid, {"context": torch.zeros(6001, 1)})).exp().detach()
    assert float(density.sum() * 12 / 6000) == pytest.approx(1.0, abs=1e-3)


# --- the ensemble ---------------------------------------------------------------------------------------


def apart(model: GaussianModel) -> None:
    """Make member m always predict the change 10 m, hardly any noise."""
    with torch.no_grad():
        for m, member in enumerate(model.ensemble.members):
            layers = [layer for layer in member.modules() if isinstance(layer, nn.Linear)]
            last = [layer for layer in layers if layer.bias is not None][-1]  # the linear path starts at zero
            last.weight.zero_()
            last.bias.copy_(torch.tensor([10.0 * m, -20.0]))


@pytest.mark.parametrize("propagation", ["ts_infinity", "ts1"])
def test_a_future_keeps_its_member_to_its_end_unless_told_not_to(propagation):
    config = GaussianConfig(NETWORK, members=4, propagation=propagation)
    model = GaussianModel(config, spec_of(1), -np.ones(1), np.ones(1))
    apart(model)
    futures = model.sample(torch.zeros(3, 1, 1), 12, 100, generator=torch.Generator().manual_seed(0))
    member = (futures[..., 0].diff(dim=-1) / 10).round()
    switches = int((member.diff(dim=-1) != 0).sum())
    assert (switches == 0) == (propagation == "ts_infinity")
    shares = torch.bincount(member[..., 0].flatten().long(), minlength=4) / 300
    assert (shares > 0.15).all()
    assert switches == 0 or switches / member.diff(dim=-1).numel() == pytest.approx(0.75, abs=0.05)


def test_members_learn_from_rows_of_their_own():
    model = make("gaussian")
    objective = model.objective()
    assert objective.new_rows == 3 * 256 and objective.gradients == 1
    c = torch.randn(objective.new_rows, 1)
    plain = Batch(2 * c, {"context": c})
    x = plain.x.clone()
    x[1::3] += 100  # the rows of member 1
    gradients = []
    for batch in (plain, Batch(x, plain.condition)):
        objective.zero_grad()
        objective(batch, torch.Generator())[0].backward()
        gradients.append([next(member.parameters()).grad.clone() for member in model.ensemble.members])
    same = [torch.equal(a, b) for a, b in zip(*gradients, strict=True)]
    assert same == [True, False, True]


@pytest.mark.parametrize("error", [0.0, 1e3, 1e15])
def test_the_ensembles_likelihood_is_finite_at_extremes(error):
    model = make("gaussian")
    objective = model.objective()
    c = torch.randn(objective.new_rows, 1)
    loss, _ = objective(Batch(c + error, {"context": c}), torch.Generator())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())


def test_variances_have_bounds_far_from_the_data(fitted):
    _, log_scale = fitted["gaussian"].ensemble.predict(
        0, {"context": torch.linspace(-1e4, 1e4, 101)[:, None]}
    )
    assert torch.isfinite(log_scale).all() and float(log_scale.detach().exp().max()) < 2


# --- spectral norm --------------------------------------------------------------------------------------


def norms(model: TrajectoryModel) -> list[float]:
    layers = [m for m in model.predictor.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
    return [float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers]


@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
def test_layers_keep_norm_one_while_training(architecture):
    model = make("spectral", architecture=architecture, window_frames=3)
    model.config = dataclasses.replace(model.config, batch_size=32)
    fit(model, lambda c, generator: sloped(c, generator).repeat(1, 3), 80)
    held = norms(model)
    assert len(held) >= 3 and max(held) <= 1.03 and min(held) > 0.9


def test_sampling_does_not_move_the_spectral_vectors():
    model = make("spectral").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = drawn_at(model, 0.5, 4), drawn_at(model, 0.5, 4)
    assert torch.equal(first, again) and model.predictor.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # in training they do
    model.predictor({"context": torch.zeros(4, 1)})
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_averaged_weights_get_a_copy_of_the_spectral_vectors():
    model = make("spectral")
    ema = EMA(model.predictor, 0.9)
    for _ in range(5):
        model.predictor({"context": torch.randn(4, 1)})
        with torch.no_grad():
            for parameter in model.predictor.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        ema.update(model.predictor)
    mine, theirs = dict(ema.module.named_buffers()), dict(model.predictor.named_buffers())
    vectors = [name for name in theirs if name.endswith(("_u", "_v"))]
    assert vectors and all(torch.equal(mine[name], theirs[name]) for name in vectors)


# --- flows ----------------------------------------------------------------------------------------------


class Narrowing(nn.Module):
    """The exact velocity from N(0, 1) to N(3, 0.5^2), told times as levels -4 to 4."""

    def forward(self, encoded: Tensor, x: Tensor, level: Tensor) -> Tensor:
        t = ((level + 4) / 8)[:, None]
        variance = (1 - t) ** 2 + (0.5 * t) ** 2
        return 3 + (0.25 * t - (1 - t)) / variance * (x - 3 * t)


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("midpoint", 2), ("euler", 1)])
def test_solvers_carry_noise_to_data_at_their_order(solver, order):
    noise = torch.linspace(-3, 3, 101, dtype=torch.float64)[:, None]
    errors = [
        float((follow(Narrowing(), noise, noise, steps, solver) - (3 + 0.5 * noise)).abs().max())
        for steps in (10, 20, 40)
    ]
    assert errors[0] < (0.3 if solver == "euler" else 0.02)
    # at least: midpoint gains a further order here by symmetry
    assert all(a / b > 0.8 * 2**order for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_times_of_training_are_as_stated(times):
    t = FlowConfig(NETWORK, times=times).draw(20_000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert float(t.min()) >= 0 and float(t.max()) <= 1
    middle = float(((t - 0.5).abs() < 0.25).float().mean())
    assert middle == pytest.approx(0.5 if times == "uniform" else 0.728, abs=0.02)


def test_a_diffusion_of_exact_denoiser_samples_a_far_off_narrow_mode():
    """A mode at 8 under noise of 5: the walk starts around the mean, not around zero."""

    class Exact(nn.Module):
        def encode(self, condition: Tensor) -> Tensor:
            return condition

        def forward(self, encoded: Tensor, x: Tensor, level: Tensor) -> Tensor:
            sigma = level.exp()[:, None]
            root = (1 + sigma**2).sqrt()
            noisy = x * root
            denoised = (0.3**2 * noisy + sigma**2 * 8) / (0.3**2 + sigma**2)
            return (denoised - noisy / root**2) * root / sigma

    model = make("diffusion")
    model.denoiser.network = Exact()
    drawn = drawn_at(model, 0.0, 20_000)
    assert float(drawn.mean()) == pytest.approx(8.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("solver", ["heun", "euler", "multistep"])
def test_diffusion_is_sampled_by_any_solver(solver):
    config = DiffusionConfig(NETWORK, sampler=AnnealConfig(8, 5.0, 0.02, solver=solver))
    model = DiffusionModel(config, spec_of(1), -np.ones(1), np.ones(1))
    assert torch.isfinite(drawn_at(model, 0.1, 20)).all()


# --- one interface --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("conditioning", ["states", "actions", "joint"])
def test_every_architecture_and_conditioning_trains_and_samples(kind, architecture, conditioning):
    model = make(
        kind, 2, conditioning, architecture=architecture, context_frames=2, window_frames=3, width=16
    )
    objective = model.objective()
    context, future = torch.randn(objective.new_rows, 2, 2), torch.randn(objective.new_rows, 3, 2)
    actions = torch.rand(objective.new_rows, 3, 1)
    told = None if conditioning == "states" else actions
    past = torch.rand(objective.new_rows, 1, 1) if model.action_history else None
    condition = model.condition(context, told, past)
    loss, figures = objective(Batch(model.encode(context, future, told), condition), torch.Generator())
    loss.backward()
    unused = [name for name, p in objective.named_parameters() if p.grad is None]
    assert torch.isfinite(loss) and not unused
    assert all(value.dim() == 0 and torch.isfinite(value) for value in figures.values())
    assert objective.batch_size == objective.new_rows
    futures = model.sample(
        context[:2],
        5,
        3,
        actions=torch.zeros(2, 1, 5, 1) if conditioning == "actions" else None,
        past_actions=None if past is None else past[:2],
    )
    assert futures.shape == (2, 3, 5, 2) and torch.isfinite(futures).all()


@pytest.mark.parametrize("kind", ALL)
def test_a_saved_model_samples_the_same_again(kind, tmp_path):
    model = make(kind, 2, architecture="residual", window_frames=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval().save(tmp_path)
    saved = load_json(tmp_path / CONFIG_FILE)
    cls, _ = ALL[kind]
    assert saved["kind"] == cls.kind == ("fc" if kind == "spectral" else kind)
    again = cls(
        from_dict(cls.config_class, saved["config"]),
        StateSpec.from_json(saved["spec"]),
        np.array(saved["action_low"], np.float32),
        np.array(saved["action_high"], np.float32),
        saved["conditioning"],
        saved["use_given"],
    )
    assert again.config == model.config
    again.load_state_dict(load_tensors(tmp_path / WEIGHTS_FILE)[0])
    again.eval()
    context = torch.randn(2, 1, 2)
    one, two, other = (
        m.sample(context, 5, 3, generator=torch.Generator().manual_seed(seed))
        for m, seed in ((model, 1), (again, 1), (again, 2))
    )
    assert torch.equal(one, two)
    assert torch.equal(two, other) == (cls is FCModel)


def test_a_member_is_no_input_of_the_networks():
    model = make("gaussian").eval()
    condition = {"context": torch.zeros(6, 1), MEMBER: torch.tensor([0, 1, 2, 0, 1, 2])}
    drawn = model._sample_window(condition, torch.Generator().manual_seed(0))
    plain = {"context": condition["context"]}
    noise = torch.empty(6, 1).normal_(generator=torch.Generator().manual_seed(0))
    for row, member in enumerate(condition[MEMBER].tolist()):
        mean, log_scale = model.ensemble.predict(member, plain)
        assert torch.allclose(drawn[row], mean[row] + log_scale[row].exp() * noise[row])


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: FCConfig(batch_size=0), "batch size: 0; accepted are 1 and more"),
        (lambda: MixtureConfig(components=0), "components: 0; accepted are 1 and more"),
        (lambda: GaussianConfig(members=0), "members: 0; accepted are 1 and more"),
        (lambda: GaussianConfig(propagation="ts2"), "propagation 'ts2'; accepted are ts_infinity, ts1"),
        (lambda: FlowConfig(steps=0), "flow steps: 0; accepted are 1 and more"),
        (lambda: FlowConfig(times="cosine"), "flow times 'cosine'; accepted are uniform, logit_normal"),
        (lambda: FlowConfig(solver="rk4"), "flow solver 'rk4'; accepted are heun, midpoint, euler"),
        (lambda: FlowConfig(batch_size=-1), "batch size: -1"),
        (lambda: DiffusionConfig(batch_size=0), "batch size: 0"),
        (lambda: DiffusionConfig(log_sigma_std=0.0), "log sigma std: 0.0; it must be above 0"),
        (lambda: DiffusionConfig(data_std=0.0), "data std: 0.0; it must be above 0"),
        (lambda: DiffusionConfig(sampler=AnnealConfig(corrector_steps=2)), "corrector need an energy"),
    ],
)
def test_settings_that_cannot_be_are_named(make_config, message):
    with pytest.raises(InputError, match=message):
        make_config()
