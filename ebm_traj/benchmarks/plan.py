"""Planning latency: the futures that a planner asks of a model at each control step, from one context."""

import dataclasses
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.benchmarks.paired import (
    Contender,
    Row,
    markdown,
    measure,
    require_positive,
    rows_of,
)
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.trajectory import pretrained
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.files import MODELS, load
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.networks import parameter_count

FRESH = ("flow", "diffusion", "fc")
P50, P99 = "p50, ms", "p99, ms"


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What is asked of a model."""

    model: str = "hand-block"
    """An energy model: a shipped one by its name, or the folder of a run."""
    futures: int = 64
    """Futures of the one context."""
    horizon: int = 16
    """Steps of each."""
    steps: int | None = None
    """Langevin steps of each chain of the energy model; default: those that it was trained with."""

    def __post_init__(self) -> None:
        for name in ("futures", "horizon"):
            require_positive(name, getattr(self, name))
        if self.steps is not None and self.steps < 0:
            raise InputError(f"--steps {self.steps}: accepted are 0 and more")


@dataclasses.dataclass(frozen=True)
class PlanResult:
    """What was found; p50 and p99 over all calls stand beside the medians of the rounds."""

    settings: PlanSettings
    rows: list[Row]
    calls: int
    """Calls of each model that were timed."""

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        title = f"{s.futures} futures of {s.horizon} steps, batch 1, {self.calls} calls"
        return markdown(self.rows, title=title)


def benchmark_plan(
    settings: PlanSettings,
    *,
    rounds: int = 6,
    calls: int = 10,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> PlanResult:
    """Rows: the energy model; flow matching, diffusion and a fully connected network of the same size.

    The latter have fresh weights, which take the same time as trained ones. In each round a model is called
    once, so that it is warm, and then `calls` times. The motion ratio is that of the model's card, for the
    sampler that it was scored with.
    Raises InputError if the model has no Langevin chain.
    """
    for name, value in (("rounds", rounds), ("calls", calls)):
        require_positive(name, value)
    model, motion = energy_model(settings, device)
    named = {settings.model: model} | {kind: fresh(kind, model, device) for kind in FRESH}
    inputs = example(model, device)
    contenders = [
        Contender(
            name,
            _plan(each, inputs, settings),
            {
                "sampler": sampler_of(each),
                "motion ratio": motion if each is model else None,
                "parameters": parameter_count(each),
            },
        )
        for name, each in named.items()
    ]
    for contender in contenders:  # the first calls of a process are slower
        contender.run()
    times = measure(contenders, rounds=rounds, samples=calls, block_seconds=0, device=device, seed=seed)
    rows = [
        dataclasses.replace(row, beside=_percentiles(times[row.name]) | row.beside)
        for row in rows_of(times, contenders)
    ]
    return PlanResult(settings, rows, rounds * calls)


def energy_model(
    settings: PlanSettings, device: torch.device | str = "cpu"
) -> tuple[TrajectoryEBM, str | None]:
    """The energy model with its sampler set, and the motion ratio of its card where that sampler has one."""
    model = load(settings.model, device)
    if not isinstance(model, TrajectoryEBM) or not isinstance(model.sampler, LangevinConfig):
        raise InputError(
            f"--model {settings.model}: needed is an energy model that samples by Langevin chains"
        )
    scored = model.sampler
    if settings.steps is not None:
        model.sampler = dataclasses.replace(scored, steps=settings.steps)
    return model, card_motion(settings.model) if model.sampler == scored else None


def card_motion(name: str) -> str | None:
    """The motion ratio on the card of a shipped model; None where there is none."""
    if pretrained.find(name) is None:
        return None
    found = re.search(r"^- motion: (\S+)$", pretrained.card(name), re.MULTILINE)
    return found.group(1) if found else None


def fresh(kind: str, like: TrajectoryModel, device: torch.device | str = "cpu") -> TrajectoryModel:
    """A model of another kind with new weights: the same networks, window, data and conditioning."""
    cls = MODELS[kind]
    config = cls.config_class(network=like.network_config)
    bounds = like.action_low, like.action_high
    model = cls(config, like.spec, *bounds, like.conditioning, like.use_given)
    return model.to(device).eval().requires_grad_(False)


def example(model: TrajectoryModel, device: torch.device | str) -> dict[str, Tensor]:
    """A context (1, C, D) at rest at the mean of the data, and past actions (1, K, A) if any are seen."""
    assert model.spec.mean is not None
    frame = torch.as_tensor(np.asarray(model.spec.mean), dtype=torch.float32, device=device)
    inputs = {"context": frame.expand(1, model.context_frames, -1).contiguous()}
    if model.action_history:
        inputs["past_actions"] = torch.zeros(1, model.action_history, model.action_size, device=device)
    return inputs


def sampler_of(model: TrajectoryModel) -> str:
    """The setting of its sampler, in words."""
    config: Any = model.config
    if isinstance(model, TrajectoryEBM):
        sampler = model.sampler
        if not isinstance(sampler, LangevinConfig):
            return type(sampler).__name__
        rule = "MALA" if sampler.metropolis else "Langevin"
        return f"{rule}, {sampler.steps} steps, {model.gradients_per_window:g} gradients a window"
    if model.kind == "flow":
        return f"{config.solver}, {config.steps} steps, {config.evaluations} evaluations a window"
    if model.kind == "diffusion":
        return f"{config.sampler.solver}, {config.sampler.steps} levels"
    return "one evaluation"


def _plan(model: TrajectoryModel, inputs: dict[str, Tensor], settings: PlanSettings) -> Any:
    told: dict[str, Any] = dict(inputs)
    if model.conditioning == "actions":
        told["actions"] = told["context"].new_zeros(1, 1, settings.horizon, model.action_size)
    context = told.pop("context")
    return lambda: model.sample(context, settings.horizon, settings.futures, **told)


def _percentiles(times: NDArray[np.float64]) -> dict[str, float]:
    return {name: 1e3 * float(np.quantile(times, share)) for name, share in ((P50, 0.5), (P99, 0.99))}
