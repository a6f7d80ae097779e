"""A small convolutional classifier of pictures, which scores samples and whose features measure distances."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm_traj.core.checkpoint import load_tensors, save_json, save_tensors
from ebm_traj.errors import InputError

WEIGHTS, CARD = "classifier.safetensors", "classifier.json"
KIND = "ebm_traj image classifier"
LEAST = 4  # pooling goes on while the side is at least twice this
CHUNK = 500  # pictures at a time where no gradient is needed

Augmentation = Literal["none", "shift", "shift-flip"]


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Size of the network and what it is shown."""

    width: int = 16
    """Channels of the first convolution; they double at each pooling, up to four times this."""
    features: int = 128
    """Size of the layer before the last, the features."""
    augmentation: Augmentation = "shift"
    """shift: each picture is moved by up to a sixteenth of its side. shift-flip: mirrored, too."""
    batch_size: int = 128
    """Pictures in a step."""

    def __post_init__(self) -> None:
        for name in ("width", "features", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"classifier {name.replace('_', ' ')}: {value}; accepted are 1 and more")


def _convolution(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class Classifier(nn.Module):
    """Convolution and pooling down to a side of 4 to 7, a residual convolution, features, classes.

    Pictures are floats (B, C, H, W) in [-1, 1].
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        config: ClassifierConfig | None = None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"classifier: {num_classes} classes; needed are 2 and more")
        self.shape = shape
        self.num_classes = num_classes
        self.config = config or ClassifierConfig()
        self.class_names = class_names or tuple(map(str, range(num_classes)))
        width, (inside, height, long) = self.config.width, shape
        layers: list[nn.Module] = []
        channels = width
        while True:
            layers.append(_convolution(inside, channels))
            inside = channels
            if min(height, long) < 2 * LEAST:
                break
            layers.append(nn.MaxPool2d(2))
            height, long, channels = height // 2, long // 2, min(4 * width, 2 * channels)
        self.trunk = nn.Sequential(*layers)
        self.residual = _convolution(inside, inside)
        self.to_features = nn.Linear(inside * height * long, self.config.features)
        self.to_classes = nn.Linear(self.config.features, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU by a third

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, d), the values before the last layer."""
        if x.shape[1:] != self.shape:
            raise InputError(f"classifier: pictures {tuple(x.shape[1:])}; it was trained on {self.shape}")
        h = self.trunk(x.contiguous(memory_format=torch.channels_last))
        h = h + self.residual(h)
        return torch.relu(self.to_features(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, classes)."""
        return self.to_classes(self.features(x))

    @torch.no_grad()
    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d) and probabilities (N, classes) of any number of pictures, in float64 on the CPU."""
        found = []
        device = next(self.parameters()).device
        for chunk in x.split(CHUNK):
            features = self.features(chunk.to(device))
            found.append((features.double().cpu(), self.to_classes(features).double().softmax(1).cpu()))
        if not found:
            raise InputError("classifier: no pictures to read")
        return torch.cat([f for f, _ in found]), torch.cat([p for _, p in found])

    def save(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        """Write weights and a card (what it is, how it was trained) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = {
            "kind": KIND,
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "config": dataclasses.asdict(self.config),
        }
        save_tensors(folder / WEIGHTS, self.state_dict(), meta)
        save_json(folder / CARD, meta | (card or {}))


def load_classifier(folder: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """A trained classifier, in evaluation mode and with its weights fixed.

    Raises InputError if there is none in the folder.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f"classifier {folder}: no {WEIGHTS} there; scripts/train_classifier.py makes one")
    tensors, meta = load_tensors(path, device)
    if meta.get("kind") != KIND:
        raise InputError(f"classifier {path}: holds '{meta.get('kind')}', no image classifier")
    channels, height, width = meta["shape"]
    model = Classifier(
        (channels, height, width),
        meta["num_classes"],
        ClassifierConfig(**meta["config"]),
        tuple(meta["class_names"]),
    ).to(device)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)
