"""Quality of samples against the gradients they cost, and Hamiltonian against Langevin chains at as many."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig, Solver
from ebm_traj.core.diagnostics import squared_jump_distance
from ebm_traj.core.hmc import ChainConfig, HMCConfig, run_chain
from ebm_traj.core.langevin import Chain, LangevinConfig, noise_like
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.posterior import denoised, temperature_of
from ebm_traj.image.sampling import (
    PictureModel,
    Sampler,
    centre_of,
    device_of,
    draw,
    energy_of_levels,
    even_labels,
    own_sampler,
    sample,
)
from ebm_traj.image.scores import Reference

FIRST_STEP = 0.3  # of chains that adapt, in units of the level


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to make samples."""

    line: str
    """Settings of one name are one line of the figure."""
    gradients: int
    """Of the energy, for each sample."""
    draw: Callable[..., Chain]
    """(model, count, labels, sampler=, generator=, record=) to a Chain."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What a setting gave."""

    line: str
    gradients: int
    seconds: float
    """CPU seconds, for all samples."""
    figures: dict[str, Any]
    """Of `image.scores.Reference.score`."""


def flow_settings(model: PictureModel, solvers: Sequence[Solver], gradients: Sequence[int]) -> list[Setting]:
    """The flow through noise levels by each solver, with as many levels as the gradients allow.

    Not sharpened, as the chains beside it are not.
    """
    own = own_sampler(model)
    if not isinstance(own, AnnealConfig):
        raise InputError("solvers: this model has no noise levels; it can only be walked by chains")
    found = []
    for solver in solvers:
        if solver == "langevin":
            raise InputError("solver: langevin; chains at each level are a line of their own")
        for wanted in gradients:
            moves = (wanted - 1) // (2 if solver == "heun" else 1)
            if moves < 1:
                continue
            config = dataclasses.replace(
                own, solver=solver, steps=moves + 1, churn=0.0, corrector_steps=0, denoise=True, sharpness=1.0
            )
            found.append(Setting(solver, config.gradients, with_sampler(config)))
    return found


def chain_settings(
    model: PictureModel, gradients: Sequence[int], *, levels: int = 10, leapfrog: int = 4
) -> list[Setting]:
    """Langevin as it is, Langevin and HMC with Metropolis tests and an adapted step, at equal gradients.

    With noise levels a chain at each of `levels`, one on from the other; without, one chain from noise, whose
    first quarter adapts.
    """
    own = own_sampler(model)
    found = []
    for wanted in gradients:
        each = (wanted - 1) // levels if isinstance(own, AnnealConfig) else wanted
        turns = (each - 1) // leapfrog
        if each < 3 or turns < 2:
            continue
        if isinstance(own, AnnealConfig):
            chains: dict[str, ChainConfig] = {
                "Langevin": LangevinConfig(each, 0.1),
                "Langevin, adapted": LangevinConfig(each - 1, 0.1, metropolis=True, adapt=max(1, each // 4)),
                "HMC, adapted": HMCConfig(turns, FIRST_STEP, leapfrog, adapt=max(1, turns // 4)),
            }
            for line, config in chains.items():
                cost = levels * config.gradients + 1
                found.append(Setting(line, cost, _annealed(config, levels)))
            continue
        temperature = temperature_of(own)
        start = (2 * temperature) ** 0.5
        free = {
            "Langevin": dataclasses.replace(own, steps=each),
            "Langevin, adapted": LangevinConfig(
                each - 1, temperature, metropolis=True, temperature=temperature, adapt=max(1, each // 4)
            ),
            "HMC, adapted": HMCConfig(
                turns, start, leapfrog, temperature=temperature, adapt=max(1, turns // 4)
            ),
        }
        for line, config in free.items():
            found.append(Setting(line, config.gradients, _from_noise(config)))
    return found


def with_sampler(config: Sampler) -> Callable[..., Chain]:
    """The drawing of a `Setting` that has a sampler of its own."""

    def made(model, count, labels, *, sampler=None, generator=None, record=False) -> Chain:
        return draw(model, count, labels, sampler=config, generator=generator, record=record)

    return made


def _from_noise(config: ChainConfig) -> Callable[..., Chain]:
    def made(model, count, labels, *, sampler=None, generator=None, record=False) -> Chain:
        noise = torch.empty(count, *model.shape, device=device_of(model)).uniform_(-1, 1, generator=generator)
        return draw(model, count, labels, sampler=config, start=noise, generator=generator, record=record)

    return made


def _annealed(config: ChainConfig, levels: int) -> Callable[..., Chain]:
    def made(model, count, labels, *, sampler=None, generator=None, record=False) -> Chain:
        return chains_down_levels(model, count, labels, config, levels, generator)

    return made


def chains_down_levels(
    model: PictureModel,
    count: int,
    labels: Tensor | None,
    config: ChainConfig,
    levels: int,
    generator: torch.Generator | None = None,
) -> Chain:
    """A chain at each of the model's noise levels, in units of the level, from the highest to the lowest.

    A chain that adapts begins with the step that the one before it ended with. The end is denoised.
    """
    own = own_sampler(model)
    if not isinstance(own, AnnealConfig):
        raise InputError("chains down the levels: this model has none")
    sigmas = dataclasses.replace(own, steps=levels).levels
    energy_at = energy_of_levels(model, labels)
    x = centre_of(model).expand(count, *model.shape)
    x = x + sigmas[0] * noise_like(x, generator)
    spent, accepted = 0, []
    for sigma in sigmas:
        energy = energy_at(x.new_full((count,), sigma))
        chain = run_chain(energy, x, config, scale=x.new_full((), sigma), generator=generator)
        x, spent = chain.x, spent + chain.gradients
        accepted.append(chain.acceptance)
        if chain.adapted_step_size is not None:
            config = dataclasses.replace(config, step_size=float(chain.adapted_step_size))
    x = denoised(energy_at, x, sigmas[-1])
    return Chain(x=x, acceptance=torch.stack(accepted).mean(), gradients=spent + 1)


def curve(
    model: PictureModel,
    settings: Sequence[Setting],
    reference: Reference,
    *,
    batch: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> list[Point]:
    """Every setting scored on as many samples as the reference has pictures; the same seed for all."""
    labels = even_labels(model, reference.count)
    points = []
    for setting in settings:
        made = sample(
            model,
            reference.count,
            labels,
            batch=batch,
            seed=seed,
            draw_batch=setting.draw,
            progress=f"{setting.line}, {setting.gradients}" if progress else None,
        )
        if made.gradients != setting.gradients:
            raise RuntimeError(f"{setting.line}: {made.gradients} gradients, not {setting.gradients}")
        finite = bool(made.x.isfinite().all())
        figures = reference.score(made.x.clamp(-1, 1).nan_to_num(), labels) if finite else {}
        points.append(Point(setting.line, setting.gradients, round(made.seconds, 2), figures))
    return points


def mixing(
    model: PictureModel,
    x: Tensor,
    labels: Tensor | None,
    sigmas: Sequence[float],
    *,
    gradients: int = 60,
    leapfrog: int = 4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How far adapted Langevin and HMC chains jump for each gradient, from pictures x (N, C, H, W).

    At each level the chains start at x with its noise, which has the level's density. `jump`: expected
    squared jump for each gradient, in units of the level squared and per dimension (see `core.diagnostics`).
    """
    turns = max(4, gradients // leapfrog)
    adapt = max(1, gradients // 3)
    configs: dict[str, ChainConfig] = {
        "Langevin, adapted": LangevinConfig(gradients, 0.1, metropolis=True, adapt=adapt),
        "HMC, adapted": HMCConfig(turns, FIRST_STEP, leapfrog, adapt=max(1, turns // 3)),
    }
    rows = []
    for sigma in sigmas:
        for line, config in configs.items():
            generator = seeded_generator(x.device, derive_seed(seed, line, str(sigma)))
            start = x + sigma * noise_like(x, generator)
            energy = model.energy_at(x.new_full((len(x),), sigma), labels)
            scale = x.new_full((), sigma)
            chain = run_chain(energy, start, config, scale=scale, generator=generator, record=True)
            assert chain.trace is not None
            jump = float(squared_jump_distance(chain.trace, scale)) / x[0].numel()
            each = leapfrog if isinstance(config, HMCConfig) else 1
            step = chain.adapted_step_size
            rows.append(
                {
                    "line": line,
                    "level": sigma,
                    "jump": jump / each,
                    "acceptance": float(chain.acceptance),
                    "step": None if step is None else float(step),
                }
            )
    return rows
