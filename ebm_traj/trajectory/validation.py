"""Held-out figures during training: how well the averaged weights predict episodes of the validation split.

By these, never by the test split, training chooses the weights to keep.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.convergence import UntilConverged
from ebm_traj.core.langevin import langevin
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split, split_code
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.joint import StagedEnergy
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.window_energy import WindowEnergy
from ebm_traj.yardstick.scores import energy_score, motion_ratio, normalise

CONTEXTS, FUTURES, STEPS = 256, 4, 8  # a few seconds for a network 256 wide on one core
ENERGY_WINDOWS = 512  # of each split


class ValidationScore:
    """Scores a model on contexts drawn once from the validation split; the same ones, and noise, every time.

    `energy_score` is that of the yardstick against the one recorded continuation, mean |x_m - y| - 1/2 mean
    |x_m - x_m'|, averaged over contexts and steps: proper, so its expectation is lowest for the true
    distribution, though above 0 even there. Because contexts and noise stay, two calls differ by the weights.
    """

    def __init__(
        self,
        recording: Recording,
        model: TrajectoryModel,
        *,
        contexts: int = CONTEXTS,
        futures: int = FUTURES,
        steps: int = STEPS,
        seed: int = 0,
        split: Split = "validation",
    ) -> None:
        """Takes context, window and history of `model`; fewer steps or contexts if episodes have no more.

        At least one whole window is predicted. Raises InputError if no episode of the split is that long.
        """
        past, self.futures, self.seed = model.context_frames, futures, seed
        longest = int(recording.lengths[recording.episode_rows(split)].max()) + 1
        self.steps = max(model.window_frames, min(steps, longest - past))
        rng = np.random.default_rng(derive_seed("validation", seed))
        states, actions = _draw(recording, split, past + self.steps, contexts, rng)
        self.truth = states[:, past:]
        self.context = torch.from_numpy(states[:, :past])
        self.future_actions = torch.from_numpy(actions[:, None, past - 1 : past - 1 + self.steps])
        self.past_actions = torch.from_numpy(actions[:, : past - 1])
        self.windows = {}
        if model.has_energy:
            length = past + model.window_frames
            self.windows["held_out"] = _draw(recording, split, length, ENERGY_WINDOWS, rng)
            self.windows["train"] = _draw(recording, "train", length, ENERGY_WINDOWS, rng)

    def __len__(self) -> int:
        """How many contexts there are."""
        return len(self.truth)

    def of_contexts(self, model: TrajectoryModel, spec: StateSpec) -> np.ndarray:
        """Energy score (n,) of each context, the mean over steps, z-scored by `spec`."""
        generator = seeded_generator(model.device, "validation", self.seed)
        truth, sampled = self._sampled(model, spec, generator)
        return energy_score(sampled, truth[:, None]).mean(1)

    def _sampled(
        self, model: TrajectoryModel, spec: StateSpec, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Truth (n, H, P) and futures (n, M, H, P), z-scored."""
        with torch.no_grad():
            futures = model.sample(
                *(self.context, self.steps, self.futures),
                actions=self.future_actions if model.conditioning == "actions" else None,
                past_actions=self.past_actions if model.action_history else None,
                generator=generator,
            )
        return normalise(self.truth, spec), normalise(futures.cpu().numpy(), spec)

    @torch.no_grad()
    def __call__(self, model: TrajectoryModel) -> dict[str, float]:
        """Figures of a model: `energy_score`, `energy_score_1` of the first step, `motion` over truth's.

        With an energy also `energy_held_out` and `energy_train` (means over windows; apart, the energy has
        learned its training data by heart), and of its sampler `displacement` and `acceptance`, see
        `sampler_figures`.
        """
        device = model.device
        generator = seeded_generator(device, "validation", self.seed)
        truth, sampled = self._sampled(model, model.spec, generator)
        scores = energy_score(sampled, truth[:, None])
        present = normalise(self.context[:, -1:].numpy(), model.spec)
        moved = np.concatenate([np.repeat(present[:, None], self.futures, 1), sampled], axis=2)
        found = {
            "energy_score": float(scores.mean()),
            "energy_score_1": float(scores[:, 0].mean()),
            "motion": motion_ratio(
                moved.reshape(-1, *moved.shape[2:]), np.concatenate([present, truth], axis=1), model.spec
            ),
        }
        for name, (states, actions) in self.windows.items():
            found[f"energy_{name}"] = float(_energy(model, states, actions).mean())
        if isinstance(model, TrajectoryEBM):
            past = self.past_actions.to(device) if model.action_history else None
            told = self.future_actions[:, 0, : model.window_frames].to(device)
            condition = model.condition(self.context.to(device), told, past)
            found |= sampler_figures(model, condition, generator)
        return found


def make_validation(
    model: TrajectoryModel,
    recording: Recording,
    *,
    contexts: int = CONTEXTS,
    futures: int = FUTURES,
    steps: int = STEPS,
    seed: int = 0,
) -> Callable[[nn.Module], dict[str, float]] | None:
    """What a `Trainer` of the model's objective takes as `validate`; None, and a warning, without such data.

    The averaged weights come as an objective and are loaded into that of a copy of the model, whose
    networks are that copy's; the model in training is not touched.
    """
    needed = model.context_frames + model.window_frames
    held_out = recording.split == split_code("validation")
    if not np.any(recording.lengths[held_out] + 1 >= needed):
        warnings.warn(
            f"{recording.folder}: no validation episode of {needed} frames or more; nothing is validated and "
            "the last weights are kept",
            stacklevel=2,
        )
        return None
    score = ValidationScore(recording, model, contexts=contexts, futures=futures, steps=steps, seed=seed)
    twin = copy.deepcopy(model).eval()
    objective = twin.objective()

    def validate(averaged: nn.Module) -> dict[str, float]:
        objective.load_state_dict(averaged.state_dict())
        return score(twin.eval())

    return validate


def make_joint_validation(
    model: TrajectoryModel, recordings: Sequence[Recording]
) -> Callable[[nn.Module], dict[str, float]] | None:
    """`make_validation` of several recordings: each figure is the mean over those that can be validated."""
    looks = [look for recording in recordings if (look := make_validation(model, recording)) is not None]
    if len(looks) <= 1:
        return looks[0] if looks else None

    def validate(averaged: nn.Module) -> dict[str, float]:
        found = [look(averaged) for look in looks]
        return {name: sum(figures[name] for figures in found) / len(found) for name in found[0]}

    return validate


def sampler_figures(
    model: TrajectoryEBM, condition: dict[str, Tensor], generator: torch.Generator | None
) -> dict[str, float]:
    """How the model's sampler walks under a condition (B, ...), over one window.

    `displacement`: root mean square, in coordinates, of what a chain moves from its start; of an annealed
    sampler, what the corrector moves the solver's result, and nothing where there is no corrector.
    `acceptance`: share of accepted Metropolis steps, where there are any.
    """
    sampler = model.sampler
    if isinstance(model.window_energy, StagedEnergy) or isinstance(sampler, UntilConverged):
        return {}  # two chains, or one of its own length: their figures are those of training
    if not isinstance(sampler, AnnealConfig):
        start, component = model.proposal.start(condition, generator)
        condition = {**condition, **component}
        scale = model.proposal.scale(condition)
        energy = model.window_energy.bind(condition)
        chain = langevin(energy, start, sampler, scale=scale, generator=generator)
        found = {"displacement": _rms(chain.x - start)}
        return found | ({"acceptance": float(chain.acceptance)} if sampler.metropolis else {})
    if not sampler.corrector_steps:
        return {}
    context = condition["context"]
    start = torch.empty(len(context), model.target_size, device=context.device).normal_(generator=generator)
    energy_at = cast(WindowEnergy, model.window_energy).bind_levels(condition)
    chain = anneal(energy_at, start, sampler, generator=generator, record=True)
    assert chain.trace is not None
    corrected = -2 if sampler.denoise else -1
    return {
        "displacement": _rms(chain.trace[corrected] - chain.trace[corrected - 1]),
        "acceptance": float(chain.acceptance),
    }


def _draw(
    recording: Recording, split: Split, length: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """States (n, length, D) and actions (n, length, A) of `count` different windows, or of all there are."""
    places = recording.window_places(length, split=split)
    if not len(places):
        raise InputError(f"{recording.folder}: no {split} episode has {length} frames, context and window")
    numbers = rng.choice(len(places), min(count, len(places)), replace=False)
    return recording.read_windows(places.at(np.sort(numbers)), length)


def _energy(model: TrajectoryModel, states: np.ndarray, actions: np.ndarray) -> Tensor:
    """Energies (n,) of recorded windows."""
    return model.energy(
        torch.from_numpy(states), *model.told_actions(torch.from_numpy(actions).to(model.device))
    )


def _rms(values: Tensor) -> float:
    return math.sqrt(float(values.square().mean()))
