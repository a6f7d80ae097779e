"""An energy-based model of pictures: its settings, sampling, classification, and its folder on the disk."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.checkpoint import from_dict, load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.denoising import LEVEL, DenoisingConfig
from ebm_traj.core.energy import EnergyOfX
from ebm_traj.core.langevin import Chain, LangevinConfig, langevin
from ebm_traj.errors import InputError
from ebm_traj.image.networks import LABEL, NO_LABEL, ImageEnergy, NetworkConfig, Shape, build_network

Training = Literal["denoising", "contrastive", "combined"]
ExtraEnergy = Callable[[Tensor, Tensor | None], Tensor]
"""x (B, C, H, W) and the level sigma (B,), None where the model has no levels; to an energy (B,)."""

CONFIG_FILE = "image.json"
WEIGHTS_FILE = "weights.safetensors"
BUFFER_FILE = "buffer.safetensors"
SHIPPED = Path(__file__).parents[1] / "pretrained"
FORMAT = "ebm_traj image"
FORMAT_VERSION = 1
KEPT_CHAINS = 1000
"""Rows of the replay buffer that are saved with a model without levels, for its chains to start from."""


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Settings of an image model; the defaults are those of pictures of digits."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """The energy's network."""
    training: Training = "denoising"
    """denoising: score matching over noise levels; contrastive: chains and a replay buffer; combined: both,
    the chains at the lowest level."""
    conditional: bool = False
    """Whether the energy takes the picture's class."""
    label_dropout: float = 0.5
    """Share of the rows whose class is withheld in training by denoising, so that one network is the energy
    with a class and without."""
    classification: float = 0.0
    """Weight of log p(y | x, sigma) in training, for conditional energies; where the class changes the energy
    by a constant, no other objective notices."""
    denoising: DenoisingConfig = dataclasses.field(default_factory=DenoisingConfig)
    """Noise levels, and their batch size."""
    bfloat16: bool = False
    """Compute the convolutions of denoising in bfloat16: a third less time on processors that have it."""
    annealing: AnnealConfig = dataclasses.field(default_factory=AnnealConfig)
    """How samples are made where the model has levels."""
    contrastive: ContrastiveConfig = dataclasses.field(default_factory=ContrastiveConfig)
    """Chains and buffer of contrastive training."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive part of `combined`."""
    contrastive_start: int = 0
    """Iteration at which it joins in."""
    generation: LangevinConfig = dataclasses.field(default_factory=LangevinConfig)
    """How samples are made where the model has no levels."""
    bounds: float | None = 1.0
    """Chains of contrastive training and of models without levels keep pixels within +- this; None: free."""
    data_noise: float = 0.0
    """Standard deviation of the noise on data in contrastive training, in pixels of [-1, 1]."""
    augment: float = 0.0
    """Share of the replayed chains that are changed by an augmentation before they go on (2012.01316)."""

    def __post_init__(self) -> None:
        if self.training not in get_args(Training):
            raise InputError(f"training: '{self.training}'; accepted are {', '.join(get_args(Training))}")
        if self.has_levels != (self.network.kind == "unet"):
            kinds = "unet" if self.has_levels else "conv, residual"
            raise InputError(
                f"network kind: '{self.network.kind}'; with training {self.training} accepted: {kinds}"
            )
        for name in ("label_dropout", "augment"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name)}; accepted is 0 to 1")
        for name in ("classification", "data_noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)}; it must be 0 or more")
        if self.classification and not self.conditional:
            raise InputError(f"classification: {self.classification}; it needs a conditional energy")

    @property
    def has_levels(self) -> bool:
        """Whether the energy is conditioned on a noise level."""
        return self.training != "contrastive"


class ImageModel(nn.Module):
    """An energy of pictures x (B, C, H, W) in [-1, 1], p(x | y) ~ exp(-E), and how it is sampled.

    `num_classes` is 0 for an unconditional model. Where it `has_levels`, exp(-E(x, sigma)) is the density of
    pictures with noise of standard deviation sigma. `card` says how it was trained.
    """

    def __init__(
        self,
        config: ImageConfig,
        shape: Shape,
        num_classes: int = 0,
        *,
        mean: Tensor | None = None,
        std: float = 1.0,
        class_names: tuple[str, ...] = (),
    ) -> None:
        """`mean` (C, H, W) and `std` of the training pictures. Raises InputError if settings do not fit."""
        super().__init__()
        if config.conditional and num_classes < 2:
            raise InputError(f"conditional energy: the data have {num_classes} classes; needed are 2 or more")
        self.config = config
        self.shape: Shape = shape
        self.num_classes = num_classes if config.conditional else 0
        self.class_names = class_names
        self.has_levels = config.has_levels
        self.energy: ImageEnergy = build_network(config.network, shape, self.num_classes, mean=mean, std=std)
        self.chains: dict[str, Tensor] = {}
        """Ends of training chains, `chain` (N, C, H, W) and perhaps `label` (N,); where new chains start."""
        self.card: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def lowest_level(self) -> float | None:
        """The noise level whose energy is taken for that of the data; None without levels."""
        return self.config.annealing.sigma_min if self.has_levels else None

    def energy_at(self, sigma: Tensor | float | None = None, labels: Tensor | None = None) -> EnergyOfX:
        """An ordinary energy of x (B, C, H, W): at the noise level sigma (B,) or 0-d, by default the data's
        own, under the classes labels (B,) int64, -1 for none.

        Without a class, networks with levels have learnt E(x) beside E(x | y), see `label_dropout`; others
        have not, and the energy is summed over classes (`ImageEnergy.over_classes`).

        Raises InputError if the model has no such thing as a level or a class.
        """
        if sigma is not None and not self.has_levels:
            raise InputError("sigma: this model was trained without noise levels; leave it out")
        if labels is not None:
            self._require_labels(labels)
        level = self.lowest_level if sigma is None else sigma
        nameless = labels is None or bool((labels == NO_LABEL).any())
        summed = nameless and self.num_classes > 0 and not self.has_levels

        def energy(x: Tensor) -> Tensor:
            condition: dict[str, Tensor] = {}
            if level is not None:
                condition[LEVEL] = torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x))
            if labels is not None:
                condition[LABEL] = labels.to(x.device).expand(len(x))
            if not summed:
                return self.energy(x, condition)
            total = self.energy.over_classes(x, condition)
            if labels is None:
                return total
            return torch.where(condition[LABEL] == NO_LABEL, total, self.energy(x, condition))

        return energy

    def sample(
        self,
        count: int,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        start: Tensor | None = None,
        extra: ExtraEnergy | None = None,
        sampler: AnnealConfig | LangevinConfig | None = None,
        generator: torch.Generator | None = None,
        record: bool = False,
    ) -> Tensor | Chain:
        """`count` pictures (count, C, H, W), perhaps of the classes labels (count,); with `record` the Chain.

        `steps` replaces the sampler's own number, `sampler` all its settings: an AnnealConfig with levels
        (its sigma_max says how much noise is put on `start`), else a LangevinConfig. `start` (count, C, H, W)
        is by default the mean picture with levels, else saved chains of training, or uniform noise if there
        are none. `extra(x, sigma)` is added to the energy at every level. Results may lie a little outside
        [-1, 1] where the model has levels.
        """
        if count < 1:
            raise InputError(f"samples: {count}; accepted are 1 and more")
        if labels is not None:
            self._require_labels(labels)
            if labels.dim() and len(labels) != count:
                raise InputError(f"labels: {len(labels)} of them for {count} samples")
        if start is not None and tuple(start.shape) != (count, *self.shape):
            raise InputError(f"start: shape {tuple(start.shape)}; accepted is {(count, *self.shape)}")
        if self.has_levels:
            chain = self._annealed(count, labels, steps, start, extra, sampler, generator, record)
        else:
            chain = self._walked(count, labels, steps, start, extra, sampler, generator, record)
        return chain if record else chain.x

    def _annealed(self, count, labels, steps, start, extra, sampler, generator, record) -> Chain:
        config = sampler or self.config.annealing
        if not isinstance(config, AnnealConfig):
            raise InputError("sampler: this model has noise levels; accepted is an AnnealConfig")
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        if start is None:
            start = cast(Tensor, self.energy.mean).expand(count, *self.shape)

        def energy_at(sigma: Tensor) -> EnergyOfX:
            own = self.energy_at(sigma, labels)
            return own if extra is None else lambda x: own(x) + extra(x, sigma)

        return anneal(energy_at, start.to(self.device), config, generator=generator, record=record)

    def _walked(self, count, labels, steps, start, extra, sampler, generator, record) -> Chain:
        from ebm_traj.image.chains import bounded_langevin

        config = sampler or self.config.generation
        if not isinstance(config, LangevinConfig):
            raise InputError("sampler: this model has no noise levels; accepted is a LangevinConfig")
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        if start is None:
            start = self._chain_starts(count, labels, generator)
        own = self.energy_at(None, labels)
        energy = own if extra is None else lambda x: own(x) + extra(x, None)
        start = start.to(self.device)
        if self.config.bounds is None or config.metropolis:
            return langevin(energy, start, config, generator=generator, record=record)
        return bounded_langevin(energy, start, config, self.config.bounds, generator=generator, record=record)

    def _chain_starts(self, count: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Saved chains of the same classes as far as there are, else uniform noise."""
        width = self.config.bounds or 1.0
        noise = torch.empty(count, *self.shape, device=self.device)
        noise.uniform_(-width, width, generator=generator)
        if not self.chains:
            return noise
        known = self.chains["chain"]
        weights = torch.ones(count, len(known), device=self.device)
        if labels is not None:
            weights = (self.chains["label"] == labels.to(self.device).expand(count)[:, None]).float()
        found = weights.sum(1) > 0
        rows = torch.multinomial(
            weights + (~found)[:, None].float(), 1, replacement=True, generator=generator
        ).squeeze(1)
        return torch.where(found.view(-1, 1, 1, 1), known[rows], noise)

    def classify(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """-E(x | y) (B, num_classes): logits of the classes of pictures x, with a graph.

        At the noise level `sigma`, by default the data's own.
        """
        if not self.num_classes:
            raise InputError("classify: this model is unconditional; needed is a conditional one")
        if sigma is not None and not self.has_levels:
            raise InputError("sigma: this model was trained without noise levels; leave it out")
        level = self.lowest_level if sigma is None else sigma
        condition: dict[str, Tensor] = {}
        if level is not None:
            condition[LEVEL] = torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x))
        return -self.energy.class_energies(x, condition)

    def unconditional(self) -> "ImageModel":
        """A copy of this model without classes: E(x), as it is where no class is given.

        Raises InputError if its network without a class is not the same network without the classes' part.
        """
        if not self.num_classes:
            return copy.deepcopy(self)
        if self.config.network.kind != "unet":
            raise InputError(
                f"unconditional: of a {self.config.network.kind} network, classes cannot be left out"
            )
        config = dataclasses.replace(self.config, conditional=False, classification=0.0)
        bare = ImageModel(config, self.shape, class_names=self.class_names).to(self.device)
        kept = bare.state_dict().keys()
        bare.load_state_dict({name: value for name, value in self.state_dict().items() if name in kept})
        bare.card = copy.deepcopy(self.card)
        return bare.train(self.training).requires_grad_(next(self.parameters()).requires_grad)

    def _require_labels(self, labels: Tensor) -> None:
        if not self.num_classes:
            raise InputError("labels: this model is unconditional; leave them out")
        low, high = int(labels.min()), int(labels.max())
        if low < NO_LABEL or high >= self.num_classes:
            raise InputError(
                f"labels: {low} to {high}; accepted are 0 to {self.num_classes - 1}, and -1 for none"
            )

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the model to a folder, which may exist: settings as JSON, weights as safetensors.

        `half` stores the weights in 16 bits.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.state_dict()
        if half:
            weights = {name: value.half() for name, value in weights.items()}
        save_tensors(folder / WEIGHTS_FILE, weights, {})
        if self.chains:
            kept = {name: rows[:KEPT_CHAINS].clone() for name, rows in self.chains.items()}
            kept["chain"] = kept["chain"].half()
            save_tensors(folder / BUFFER_FILE, kept, {})
        save_json(
            folder / CONFIG_FILE,
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "config": dataclasses.asdict(self.config),
                "shape": list(self.shape),
                "num_classes": self.num_classes,
                "class_names": list(self.class_names),
                "card": self.card,
            },
        )


def shipped() -> list[str]:
    """Names of the image models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}"))


def load_image_model(folder: str | Path, device: torch.device | str = "cpu") -> ImageModel:
    """The model saved in a folder, in evaluation mode; or a shipped one by its name, see `shipped`.

    Raises InputError if the folder holds no model, a damaged one, or one of another format.
    """
    if str(folder) in shipped() and not Path(folder).exists():
        folder = SHIPPED / folder
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: no image model ({CONFIG_FILE} is missing); needed is a folder of train_image.py, or "
            f"the name of a shipped model ({', '.join(shipped())})"
        )
    saved = load_json(folder / CONFIG_FILE)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG_FILE}: not an image model of this package")
    if saved["version"] != FORMAT_VERSION:
        raise InputError(
            f"{folder / CONFIG_FILE}: format version {saved['version']}; this package reads {FORMAT_VERSION}"
        )
    channels, height, width = saved["shape"]
    model = ImageModel(
        from_dict(ImageConfig, saved["config"]),
        (channels, height, width),
        saved["num_classes"],
        class_names=tuple(saved["class_names"]),
    )
    model.card = saved["card"]
    weights, _ = load_tensors(folder / WEIGHTS_FILE)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: weights do not fit {CONFIG_FILE} ({error})".splitlines()[0]
        ) from error
    if (folder / BUFFER_FILE).is_file():
        chains, _ = load_tensors(folder / BUFFER_FILE, device)
        model.chains = {**chains, "chain": chains["chain"].float()}
    return model.to(device).eval().requires_grad_(False)
