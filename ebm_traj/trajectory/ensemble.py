"""Ensembles: the energies of several models summed at sampling time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, EnergyAt
from ebm_traj.core.checkpoint import save_json
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.gradients import BoundEnergy, BoundSum
from ebm_traj.core.objectives import Objective
from ebm_traj.core.proposal import Proposal, Start
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.joint import JointProposal, StagedEnergy
from ebm_traj.trajectory.model import CONFIG_FILE, FORMAT, FORMAT_VERSION, TrajectoryModel
from ebm_traj.trajectory.walks import annealed_sample
from ebm_traj.trajectory.window_energy import WindowEnergy


class MeanEnergy(Energy):
    """E(x) = sum_i w_i E_i(x), with weights that sum to 1: the weighted geometric mean of the densities."""

    def __init__(self, parts: Sequence[Energy], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.weights = tuple(weights)

    @property
    def needs_autograd(self) -> bool:
        return any(cast(Energy, part).needs_autograd for part in self.parts)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self._mean([part(x, condition) for part in self.parts])

    def bind(self, condition: Condition) -> EnergyOfX:
        bound = [cast(Energy, part).bind(condition) for part in self.parts]
        return self._bound(bound)

    def bind_levels(self, condition: Condition) -> EnergyAt:
        """The same of noise-conditional energies, at each noise level."""
        bound = [cast(Any, part).bind_levels(condition) for part in self.parts]

        def at(level: Tensor) -> EnergyOfX:
            return self._bound([energy_at(level) for energy_at in bound])

        return at

    def _bound(self, parts: list[EnergyOfX]) -> EnergyOfX:
        if all(isinstance(part, BoundEnergy) for part in parts):
            return BoundSum(cast(list[BoundEnergy], parts), list(self.weights))
        return lambda x: self._mean([energy(x) for energy in parts])

    def _mean(self, values: list[Tensor]) -> Tensor:
        return torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum(
            0
        )


class DealtProposal(Proposal):
    """Row i starts where the proposal of member i mod n starts it: samples of a context share them evenly."""

    def __init__(self, parts: Sequence[Proposal]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def clipped(self) -> bool:
        return all(cast(Proposal, part).clipped for part in self.parts)

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.start(condition, generator).x

    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        starts = [part.start(rows, generator) for part, rows in self._dealt(condition)]
        names = {name: None for start in starts for name in start.component}  # in order
        return Start(
            _collected([start.x for start in starts]),
            # a member without a box has nothing boxed
            {
                name: _collected([start.component.get(name, torch.zeros_like(start.x)) for start in starts])
                for name in names
            },
        )

    def scale(self, condition: Condition) -> Tensor | None:
        scales = [part.scale(rows) for part, rows in self._dealt(condition)]
        known = [scale for scale in scales if scale is not None]
        return _collected(known) if len(known) == len(scales) else None

    def _dealt(self, condition: Condition) -> list[tuple[Proposal, Condition]]:
        """Each member that has rows, with its rows."""
        count, rows = len(self.parts), len(next(iter(condition.values())))
        return [
            (cast(Proposal, part), {name: value[i::count] for name, value in condition.items()})
            for i, part in enumerate(list(self.parts)[:rows])
        ]


def _collected(parts: list[Tensor]) -> Tensor:
    """Rows dealt to the parts in turn, in their own order again."""
    whole = parts[0].new_empty(sum(len(part) for part in parts), *parts[0].shape[1:])
    for i, part in enumerate(parts):
        whole[i :: len(parts)] = part
    return whole


class MeanInverse(nn.Module):
    """The mean of what the members' inverse dynamics say."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, condition: Condition) -> Tensor:
        return torch.stack([part(condition) for part in self.parts]).mean(0)


class ComposedEBM(TrajectoryEBM):
    """An energy model whose energy is put together from others; it has no weights of its own."""

    def _take_after(self, other: TrajectoryEBM) -> None:
        """Set this model up as `other` is, without its networks."""
        TrajectoryModel.__init__(
            *(self, other.config, other.spec, other.action_low, other.action_high),
            conditioning=other.conditioning,
            use_given=other.use_given,
        )
        self.inverse = None
        self.to(other.device)
        self._sampler = other._sampler

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        sampler = self.sampler
        if isinstance(sampler, AnnealConfig):
            energy = cast(WindowEnergy, self.window_energy)  # has `bind_levels` as well
            return annealed_sample(energy, condition, self.target_size, sampler, generator)
        return super()._sample_window(condition, generator)


class EnergyEnsemble(ComposedEBM):
    """Energy models whose energies are averaged: one sampler, futures that all members find likely.

    exp(-mean E_i) is the geometric mean of the densities, a product of experts with exponents 1/n (Hinton
    2002). What members know alike stays; what each has made up for itself is averaged out. Noise-conditional
    energies are averaged at every noise level. The blurred geometric mean is not quite the geometric mean of
    the blurred ones, so where members differ much a flow through the levels ends beside the mean energy's own
    distribution; MCMC at the levels (solver `langevin`) or the corrector removes that (Du et al. 2023,
    2302.11552).

    Residual energies of a chain that keeps to its component share that component, of the member that started
    the chain: there the corrections are averaged.

    Members must agree in spec with statistics, coordinates, frames, conditioning and in whether the energy
    has noise levels, else also in the kind of proposal; architecture, size and seed may differ.
    """

    kind = "ensemble"

    def __init__(self, models: Sequence[TrajectoryEBM], weights: Sequence[float] | None = None) -> None:
        """`weights`, all above 0, are brought to sum 1; equal ones by default. Sampler: the first member's.

        Raises InputError that names what members differ in.
        """
        if not models:
            raise InputError("ensemble: no members; accepted are one and more")
        for i, model in enumerate(models):
            if not isinstance(model, TrajectoryEBM):
                raise InputError(f"ensemble: member {i} is of kind '{model.kind}'; accepted is ebm")
            _require_alike(i, model, models[0])
        weights = [1.0] * len(models) if weights is None else list(weights)
        if len(weights) != len(models) or not all(0 < weight < float("inf") for weight in weights):
            raise InputError(f"ensemble weights: {weights}; accepted are {len(models)} numbers above 0")
        self._take_after(models[0])
        self.members = nn.ModuleList(models)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.window_energy, self.proposal = self._averaged(models)
        inverses = [model.inverse for model in models]
        if all(inverse is not None for inverse in inverses):
            self.inverse = cast(Any, MeanInverse(cast(list[nn.Module], inverses)))
        self.card = _shared(models) | {
            "members": [each.card for each in models],
            "weights": list(self.weights),
        }
        self.train(models[0].training)

    def _averaged(self, models: Sequence[TrajectoryEBM]) -> tuple[Energy, Proposal]:
        """The mean energy and where its chains start; of joint models in the same two stages as theirs."""
        energies = [model.window_energy for model in models]
        proposals = [model.proposal for model in models]
        if not isinstance(energies[0], StagedEnergy):
            return MeanEnergy(energies, self.weights), DealtProposal(proposals)
        staged, joint = cast(list[StagedEnergy], energies), cast(list[JointProposal], proposals)
        energy = StagedEnergy(
            MeanEnergy([part.actions for part in staged], self.weights),
            MeanEnergy([part.states for part in staged], self.weights),
            staged[0].parts,
        )
        actions = DealtProposal([part.actions for part in joint])
        return energy, JointProposal(actions, DealtProposal([part.states for part in joint]), staged[0].parts)

    def objective(self) -> Objective:
        raise InputError("ensemble: its members are trained one by one, each with its own seed")

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write every member into a folder of its own under `folder`, then `model.json` that lists them."""
        folder = Path(folder)
        names = [f"member-{i}" for i in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            cast(TrajectoryModel, member).save(folder / name, half=half)
        save_json(
            folder / CONFIG_FILE,
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "kind": self.kind,
                "members": names,
                "weights": list(self.weights),
            },
        )

    @classmethod
    def read(
        cls, folder: Path, saved: Mapping[str, Any], load: Callable[[Path], TrajectoryModel]
    ) -> "EnergyEnsemble":
        """The ensemble of a folder; `saved` is its `model.json`, `load` reads a member's folder."""
        members = [load(folder / name) for name in saved["members"]]
        return cls(cast(Sequence[TrajectoryEBM], members), saved["weights"])


def _shared(models: Sequence[TrajectoryModel]) -> dict[str, Any]:
    """Of the members' cards what says where an ensemble can act: its data's environment, if all have one,
    and the least that any inverse dynamics were trained."""
    found: dict[str, Any] = {}
    for name in ("env_id", "env_kwargs"):
        values = [model.card.get(name) for model in models]
        if values[0] is not None and all(value == values[0] for value in values):
            found[name] = values[0]
    trained = [model.card.get("inverse_iterations") for model in models]
    if all(steps is not None for steps in trained):
        found["inverse_iterations"] = min(cast(list[int], trained))
    return found


def _require_alike(number: int, model: TrajectoryEBM, first: TrajectoryEBM) -> None:
    """InputError that names what member `number` and the first differ in."""

    def differs(what: str, found: Any, wanted: Any) -> InputError:
        return InputError(
            f"ensemble: member {number} differs from member 0 in {what}: {found} against {wanted}"
        )

    difference = model.spec.difference(first.spec)
    if difference:
        raise InputError(f"ensemble: member {number} differs from member 0 in its state spec: {difference}")
    for name in ("mean", "std", "change_std"):
        if not np.array_equal(getattr(model.spec, name), getattr(first.spec, name)):
            raise InputError(
                f"ensemble: member {number} differs from member 0 in the {name} of its training data; "
                "train the members on one data set"
            )
    for name in ("conditioning", "use_given", "context_frames", "window_frames", "action_history"):
        found, wanted = getattr(model, name), getattr(first, name)
        if found != wanted:
            raise differs(name.replace("_", " "), found, wanted)
    found, wanted = model.network_config.coordinates, first.network_config.coordinates
    if found != wanted:
        raise differs("coordinates", found, wanted)
    for name in ("action_low", "action_high"):
        if not np.array_equal(getattr(model, name), getattr(first, name)):
            raise differs(name.replace("_", " "), getattr(model, name), getattr(first, name))
    if model.config.has_levels != first.config.has_levels:
        raise differs("noise levels", model.config.training, first.config.training)
    if not first.config.has_levels:
        for name in ("proposal", "residual"):
            found, wanted = getattr(model.config, name), getattr(first.config, name)
            if found != wanted:
                raise differs(name, found, wanted)
    elif model.config.denoising.sigma_min != first.config.denoising.sigma_min:
        raise differs(
            "its lowest noise level", model.config.denoising.sigma_min, first.config.denoising.sigma_min
        )
