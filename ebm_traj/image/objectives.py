"""What is minimised when an image energy is trained: the core's objectives, with classes, bounded pixels."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence, differentiable_steps
from ebm_traj.core.denoising import LEVEL, DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.energy import Condition, Energy
from ebm_traj.core.langevin import Chain, langevin
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import Proposal
from ebm_traj.errors import InputError
from ebm_traj.image.chains import bounded_langevin, frozen
from ebm_traj.image.denoiser import DenoiserEnergy
from ebm_traj.image.model import ImageModel
from ebm_traj.image.networks import LABEL, NO_LABEL, Shape
from ebm_traj.image.spectral import power_iterate

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Pictures (B, C, H, W) to changed ones."""


class PictureDenoising(DenoisingScoreMatching):
    """Denoising score matching of a `DenoiserEnergy`, weighted by the data's spread, with or without class.

    Each row's denoising error counts (s^2 + d^2) / (s d)^2 (Karras et al. 2022, table 1), d being the data's
    standard deviation: what the network itself has to give then has unit size at each level. A share
    `dropout` of the rows learns E(x, s), the others E(x, s | y), which differs from it by log p(y | x, s);
    `classification` weighs the likelihood of that classifier.
    """

    def __init__(
        self,
        energy: DenoiserEnergy,
        config: DenoisingConfig,
        *,
        dropout: float = 0.5,
        classification: float = 0.0,
        bfloat16: bool = False,
    ) -> None:
        """`bfloat16` computes convolutions and products in that precision; the parameters keep theirs."""
        super().__init__(energy, config)
        self.lower_precision = bfloat16
        self.dropout = dropout
        self.classification = classification

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The condition of the batch may hold `label` (B,), -1 where a row's class is not known."""
        energy, y = self.energy, batch.x
        assert isinstance(energy, DenoiserEnergy)
        sigma = self.config.draw(len(y), y.device, generator)
        wide = sigma.view(-1, 1, 1, 1)
        noisy = (y + wide * torch.empty_like(y).normal_(generator=generator)).requires_grad_(True)
        condition: dict[str, Tensor] = {LEVEL: sigma}
        label = batch.condition.get(LABEL) if energy.num_classes else None
        logits = None
        if label is not None:
            withheld = torch.rand(len(y), generator=generator, device=y.device) < self.dropout
            condition[LABEL] = label.masked_fill(withheld, NO_LABEL)
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.lower_precision):
            if label is None:
                values = energy(noisy, condition)
            else:
                values, logits = energy.with_logits(noisy, condition)
            (gradient,) = torch.autograd.grad(values.sum(), noisy, create_graph=True)
        error = (noisy - wide.square() * gradient - y).square().flatten(1).mean(1)
        variance = energy.std.square()
        denoising = (error * (sigma**2 + variance) / (sigma**2 * variance)).mean()
        figures = {"denoising_loss": denoising.detach(), "denoising_error": error.detach().mean().sqrt()}
        loss = denoising
        if logits is not None and label is not None and self.classification:
            known = functional.nll_loss(logits, label, ignore_index=NO_LABEL, reduction="sum")
            cross_entropy = known / (label >= 0).sum().clamp_min(1)
            loss = loss + self.classification * cross_entropy
            figures["cross_entropy"] = cross_entropy.detach()
        return loss, figures


class UniformPictures(Proposal):
    """Uniform noise within +- `width`: where the literature's image chains start."""

    where: Tensor

    def __init__(self, shape: Shape, width: float) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.register_buffer("where", torch.zeros(()), persistent=False)  # on whose device starts are made

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, C, H, W)."""
        x = torch.empty(count, *self.shape, device=self.where.device)
        return x.uniform_(-self.width, self.width, generator=generator)

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.draw(len(next(iter(condition.values()))), generator)

    def centre(self, condition: Condition) -> Tensor:
        """(1, C, H, W), whatever the condition: what samples are compared with where their entropy is
        estimated: nothing."""
        return torch.zeros(1, *self.shape, device=self.where.device)


class PictureContrastive(ContrastiveDivergence):
    """Contrastive divergence on pictures: chains of bounded pixels, noisy data, changed chains of the buffer.

    Each step has `batch_size` new rows of data; of as many chains a share goes on from the buffer, each under
    the class it was started with. Data rows carry noise of `data_noise` (the tutorial's small noise on data).
    Before they go on, a share of the replayed chains is changed by `augment`: transitions that Langevin steps
    seldom make (2012.01316, section 3.3). The vectors of spectral norm move once a step, before the chains.
    """

    def __init__(
        self,
        energy: Energy,
        shape: Shape,
        config: ContrastiveConfig,
        *,
        bounds: float | None = 1.0,
        data_noise: float = 0.0,
        augment: Augment | None = None,
        augment_share: float = 1.0,
        fixed_level: float | None = None,
    ) -> None:
        """`fixed_level`: the noise level at which a noise-conditional energy is trained."""
        super().__init__(energy, UniformPictures(shape, bounds or 1.0), config)
        if bounds is not None and config.langevin.metropolis:
            raise InputError("Langevin metropolis: with bounds on pixels the proposal is unknown; drop it")
        self.bounds, self.data_noise = bounds, data_noise
        self.augment, self.augment_share = augment, augment_share
        self.fixed_level = fixed_level
        self.new_rows = config.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The condition of the batch may hold `label` (B,)."""
        data, rows = batch.x, len(batch)
        if self.data_noise:
            data = data + self.data_noise * torch.empty_like(data).normal_(generator=generator)
            if self.bounds is not None:
                data = data.clamp_(-self.bounds, self.bounds)
        power_iterate(self.energy)
        of_data = {name: values for name, values in batch.condition.items() if name == LABEL}
        replayed = min(round(rows * self.replayed_rows / self.batch_size), len(self.buffer))
        fresh = rows - replayed
        of_chains = {name: values[:fresh] for name, values in of_data.items()}
        start = self.proposal.draw(fresh, generator)  # type: ignore[operator]
        slots = torch.zeros(0, dtype=torch.int64, device=data.device)
        ages: dict[str, Tensor] = {}
        if replayed:
            slots, old = self.buffer.draw(replayed, generator)
            age = self.buffer.age(slots)
            ages = {"buffer_age_mean": age.double().mean(), "buffer_age_max": age.max()}
            start = torch.cat([start, self._changed(old["chain"], generator)])
            of_chains = {name: torch.cat([values, old[name]]) for name, values in of_chains.items()}
        if self.fixed_level is not None:
            level = torch.full((rows,), self.fixed_level, device=data.device)
            of_data, of_chains = {**of_data, LEVEL: level}, {**of_chains, LEVEL: level}
        chain, live = self._walk(start, of_chains, None, generator)
        through = self._through_chain(live, of_chains, None, slots, generator)
        if replayed:
            self.buffer.update(slots, "chain", chain.x[fresh:])
        kept = {name: values[:fresh] for name, values in of_chains.items() if name == LABEL}
        self.buffer.add({"chain": chain.x[:fresh], **kept})

        loss, figures = self._phases(data, of_data, chain.x, of_chains, start)
        figures |= ages
        if through is not None:
            loss = loss + through[0]
            figures.update(through[1])
        return loss, figures

    def _walk(
        self, start: Tensor, condition: Condition, scale: Tensor | None, generator: torch.Generator
    ) -> tuple[Chain, Tensor | None]:
        steps, last = self.langevin.steps, self.config.kl_steps if self.config.through_chain else 0
        before = dataclasses.replace(self.langevin, steps=steps - last)
        with frozen(self.energy):
            energy = self.energy.bind(condition)
            if self.bounds is None:
                chain = langevin(energy, start, before, generator=generator)
            else:
                chain = bounded_langevin(energy, start, before, self.bounds, generator=generator)
        if not last:
            return chain, None
        after = dataclasses.replace(self.langevin, steps=last)
        live, acceptance = differentiable_steps(self.energy, condition, chain.x, after, None, generator)
        if self.bounds is not None:
            live = live.clamp(-self.bounds, self.bounds)
        acceptance = ((steps - last) * chain.acceptance + last * acceptance) / steps
        return Chain(x=live.detach(), acceptance=acceptance), live

    def _changed(self, chains: Tensor, generator: torch.Generator) -> Tensor:
        """Replayed chains of which a share is augmented."""
        if self.augment is None:
            return chains
        chosen = torch.rand(len(chains), generator=generator, device=chains.device) < self.augment_share
        return torch.where(chosen[:, None, None, None], self.augment(chains, generator), chains)


def make_objective(model: ImageModel, augment: Augment | None = None) -> Objective:
    """What the model's settings say is to be minimised."""
    config = model.config
    parts = []
    if config.has_levels:
        assert isinstance(model.energy, DenoiserEnergy)
        denoising = PictureDenoising(
            model.energy,
            config.denoising,
            dropout=config.label_dropout,
            classification=config.classification,
            bfloat16=config.bfloat16,
        )
        if config.training == "denoising":
            return denoising
        parts.append(Part("denoising", denoising))
    contrastive = PictureContrastive(
        model.energy,
        model.shape,
        config.contrastive,
        bounds=config.bounds,
        data_noise=config.data_noise,
        augment=augment if config.augment else None,
        augment_share=config.augment,
        fixed_level=model.lowest_level,
    )
    if config.training == "contrastive":
        return contrastive
    parts.append(
        Part("contrastive", contrastive, weight=config.contrastive_weight, start=config.contrastive_start)
    )
    return CombinedObjective(parts)


def contrastive_part(objective: Objective) -> PictureContrastive | None:
    """The part of an objective that keeps chains; None if it has none."""
    if isinstance(objective, PictureContrastive):
        return objective
    if isinstance(objective, CombinedObjective):
        return next((part for part in objective.objectives if isinstance(part, PictureContrastive)), None)
    return None
