"""A classifier with the network of a conditional energy: the half of it that reads the class.

To hold an energy classifier against an ordinary and an adversarially trained one, the network must be the
same; then only the training differs.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.core.checkpoint import from_dict, load_tensors, save_tensors
from ebm_traj.core.denoising import LEVEL
from ebm_traj.errors import InputError
from ebm_traj.image.attacks import WIDTH
from ebm_traj.image.classifier_training import Attack
from ebm_traj.image.denoiser import DenoiserEnergy
from ebm_traj.image.networks import ImageEnergy, NetworkConfig, Shape

FILE = "same_network.safetensors"
KIND = "ebm_traj classifier with an energy's network"


def class_logits(energy: ImageEnergy, x: Tensor, sigma: float | None) -> Tensor:
    """Logits (B, K) of pictures x (B, C, H, W), -E(x | y, sigma) up to what all classes share.

    Of a U-Net that is log p(y | x, sigma), for which only the way down is gone; others give -E itself.
    """
    level = None if sigma is None else x.new_full((len(x),), sigma)
    if not isinstance(energy, DenoiserEnergy):
        return -energy.class_energies(x, {} if level is None else {LEVEL: level})
    if energy.head is None:
        raise InputError("class logits: this energy was made without classes")
    if level is None:
        raise InputError("class logits: this energy reads a noise level")
    variance, embedding = level.square() + energy.std.square(), energy.net.embed(level)
    u = (x - energy.mean) * variance.rsqrt().view(-1, 1, 1, 1)
    features, _ = energy.net.encode(u, embedding)
    return energy.head(features, embedding)


class SameNetwork(nn.Module):
    """x (B, C, H, W) to logits (B, K) by the downward half and the class head of a U-Net energy."""

    def __init__(
        self,
        config: NetworkConfig,
        shape: Shape,
        num_classes: int,
        sigma: float,
        *,
        mean: Tensor | None = None,
        std: float = 1.0,
    ) -> None:
        """`sigma` is the noise level the network is told; no noise is added."""
        super().__init__()
        if config.kind != "unet":
            raise InputError(f"network kind: '{config.kind}'; accepted here is unet")
        self.config, self.shape, self.num_classes, self.sigma = config, shape, num_classes, sigma
        self.card: dict[str, Any] = {}
        self.energy = DenoiserEnergy(config, shape, num_classes, mean=mean, std=std)
        for part in (self.energy.net.grow, self.energy.net.up, self.energy.net.last):
            part.requires_grad_(False)  # the way up has no part in a class

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        return class_logits(self.energy, x, self.sigma)

    def save(self, folder: str | Path, card: dict[str, Any]) -> None:
        """Write weights and a card into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {
            "kind": KIND,
            "config": dataclasses.asdict(self.config),
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "sigma": self.sigma,
            "card": card,
        }
        save_tensors(folder / FILE, self.state_dict(), meta)


def saved_in(folder: Path) -> bool:
    """Whether `load_any_classifier` finds a finished classifier in the folder."""
    from ebm_traj.image.classifier import WEIGHTS

    return (folder / FILE).is_file() or (folder / WEIGHTS).is_file()


def load_any_classifier(folder: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """A classifier saved by `SameNetwork.save` or by `image.classifier`, x to logits, weights fixed.

    Raises InputError if there is none in the folder.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        from ebm_traj.image.classifier import load_classifier

        return load_classifier(folder, device)
    tensors, meta = load_tensors(path)
    if meta.get("kind") != KIND:
        raise InputError(f"classifier {path}: holds '{meta.get('kind')}'; accepted is '{KIND}'")
    channels, height, width = meta["shape"]
    network = from_dict(NetworkConfig, meta["config"])
    model = SameNetwork(network, (channels, height, width), meta["num_classes"], meta["sigma"])
    model.load_state_dict(tensors)
    model.card = meta["card"]
    return model.to(device).eval().requires_grad_(False)


def training_attack(radius: float, steps: int, smaller: float = 0.0, bfloat16: bool = False) -> Attack:
    """l-inf PGD from a random start for each batch (Madry et al. 2018); one step is fast adversarial
    training (Wong et al. 2020). `radius` in units of pixels in [0, 1]; a share `smaller` of the pictures has
    one drawn uniformly below it. `bfloat16`: the precision of the search's gradients."""
    if not radius > 0:
        raise InputError(f"adversarial radius: {radius}; it must be above 0")
    if steps < 1:
        raise InputError(f"adversarial steps: {steps}; accepted are 1 and more")

    def attack(network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        part, chosen = torch.rand(2, len(x), 1, 1, 1, generator=generator, device=x.device)
        size = WIDTH * radius * torch.where(chosen < smaller, part, 1.0)
        change = size * torch.empty_like(x).uniform_(-1, 1, generator=generator)
        for _ in range(steps):
            point = (x + change).clamp(-1, 1).requires_grad_(True)
            with torch.enable_grad():
                with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
                    logits = network(point)
                loss = functional.cross_entropy(logits.float(), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, point)
            # Wong et al.: 1.25 of the radius in one step; with more, 2.5 of it over all of them
            change = change + size * 2.5 / max(2, steps) * gradient.sign()
            change = change.clamp(-size, size)
        return (x + change).clamp(-1, 1)

    return attack
