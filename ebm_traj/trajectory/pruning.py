"""Components of mixtures that are hardly ever drawn, left out of a trained model: smaller and faster."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ebm_traj.core.energy import Condition
from ebm_traj.core.proposal import MixtureProposal, Proposal
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.joint import JointProposal
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.networks import parameter_count
from ebm_traj.trajectory.rehearsal import require_same_spaces
from ebm_traj.trajectory.windows import open_windows

WINDOWS = 10_000
LEAST_MEAN_SHARE = 1e-3


@torch.no_grad()
def pruned(
    model: TrajectoryModel, recording: Recording, least_mean_share: float = LEAST_MEAN_SHARE
) -> TrajectoryEBM:
    """`model` without the components that are drawn in less than `least_mean_share` of all windows.

    Shares are means over `WINDOWS` training windows of `recording`, under the recorded actions where states
    follow from them. Mixtures often come to use few of their components; the rest cost time at every step.
    What is left is drawn as before; the density of what only the others explained falls.

    Raises InputError for a model whose chains do not start from a mixture, and if the recording does not fit.
    """
    if not isinstance(model, TrajectoryEBM) or not _starts_from_mixtures(model.proposal):
        raise InputError(f"pruning: this {model.kind} model does not start its chains from a mixture")
    require_same_spaces(model, [recording])
    state, kept = model.state_dict(), {}
    counts: dict[str, Any] = {}
    for setting, (name, mixture, told) in _mixtures(model, recording).items():
        shares = mixture.left_in(mixture.mixture(told).log_weights).softmax(-1).mean(0)
        kept[name] = mixture, (shares >= least_mean_share).nonzero()[:, 0]
        counts[setting] = len(kept[name][1])
    config = dataclasses.replace(model.config, **counts)
    box = model.action_low, model.action_high
    small = TrajectoryEBM(config, model.spec, *box, model.conditioning, model.use_given).to(model.device)
    for name, values in small.state_dict().items():
        for prefix, (mixture, places) in kept.items():
            if name.startswith(prefix) and values.shape != state[name].shape:
                state[name] = _of_components(state[name], mixture, places)
    small.load_state_dict(state)
    small.card = {**model.card, "parameters": parameter_count(small)}
    return small.eval().requires_grad_(False)


def _starts_from_mixtures(proposal: Proposal) -> bool:
    parts = (proposal.actions, proposal.states) if isinstance(proposal, JointProposal) else (proposal,)
    return all(isinstance(part, MixtureProposal) for part in parts)


def _mixtures(
    model: TrajectoryEBM, recording: Recording
) -> dict[str, tuple[str, MixtureProposal, Condition]]:
    """Each mixture by the setting of its size: prefix of its weights, itself, and what it is told."""
    past = model.context_frames
    windows = open_windows(recording, "train", past + model.window_frames, model.device)
    frames, actions = windows.draw(WINDOWS, 0, seeded_generator(model.device, "pruning", 0))
    taken, before = model.told_actions(actions)
    condition = model.condition(frames[:, :past], taken, before)
    proposal = model.proposal
    if isinstance(proposal, MixtureProposal):
        return {"components": ("proposal.", proposal, condition)}
    assert isinstance(proposal, JointProposal)
    first, second = proposal.actions, proposal.states
    assert isinstance(first, MixtureProposal) and isinstance(second, MixtureProposal)
    known = proposal.parts.split(model.encode(frames[:, :past], frames[:, past:], taken), condition)[2]
    return {
        "components": ("proposal.actions.", first, condition),
        "state_components": ("proposal.states.", second, known),
    }


def _of_components(values: Tensor, mixture: MixtureProposal, kept: Tensor) -> Tensor:
    """The rows (n', ...) of a layer's weights or biases (n, ...) that give the kept components' numbers."""
    numbers = mixture.numbers(values.view(len(values), -1).t())
    scales = numbers.log_scales[:, kept]
    if values.dim() == 1:  # scales are learned against first ones, which go by a component's number
        scales = scales + mixture.first_log_scales[kept] - mixture.first_scales(len(kept)).to(scales)
    parts = [numbers.log_weights[:, kept], numbers.means[:, kept].flatten(1), scales.flatten(1)]
    if numbers.uniform is not None:
        parts.append(numbers.uniform[:, kept].flatten(1))
    return torch.cat(parts, dim=1).t().reshape(-1, *values.shape[1:])
