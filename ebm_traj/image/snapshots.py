"""Pictures of a run while it goes: grids of samples, chains on their way, and curves."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ebm_traj.core.langevin import Chain
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import VALIDATION
from ebm_traj.curves import CURVES_FILE, Panel, draw_panels
from ebm_traj.image.grids import write_grid
from ebm_traj.image.model import ImageModel
from ebm_traj.theme import LIGHT, Theme

SAMPLES_FOLDER, CHAINS_FOLDER = "samples", "chains"
COLUMNS = 10
MOMENTS = 10
SMALL = 100  # pixels; smaller pictures are enlarged to about this width


@dataclasses.dataclass
class Snapshots:
    """Draws samples and chains of a model, always from the same random numbers."""

    folder: Path
    count: int = 40
    """Samples in a grid; 0 draws nothing."""
    chains: int = 6
    """Chains that are shown on their way."""
    steps: int | None = None
    """Of the sampler; None: the model's own number."""
    seed: int = 0
    classes: Sequence[int] = ()
    """Those the model learns; all of them by default."""

    def __call__(self, model: ImageModel, iteration: int) -> None:
        """Writes `samples/ITERATION.png` and `chains/ITERATION.png`; conditional models cycle the classes."""
        if not self.count:
            return
        generator = seeded_generator(model.device, "snapshots", self.seed)
        labels = None
        if model.num_classes:
            trained = torch.tensor(self.classes or range(model.num_classes), device=model.device)
            labels = trained[torch.arange(self.count, device=model.device) % len(trained)]
        chain = model.sample(self.count, labels, steps=self.steps, generator=generator, record=True)
        assert isinstance(chain, Chain) and chain.trace is not None
        name = f"{iteration:07d}.png"
        scale = max(1, round(SMALL / model.shape[2] / 2))
        write_grid(self.folder / SAMPLES_FOLDER / name, chain.x.clamp(-1, 1), COLUMNS, scale=scale)
        if self.chains and len(chain.trace):
            shown = chain.trace[moments(len(chain.trace)), : self.chains]
            rows = shown.transpose(0, 1).flatten(0, 1).clamp(-1, 1)  # a row for each chain
            write_grid(self.folder / CHAINS_FOLDER / name, rows, shown.shape[0], scale=scale)


def moments(length: int, count: int = MOMENTS) -> list[int]:
    """Places of a trace of `length` states, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


PANELS = (
    Panel("Loss", {"loss": "training"}),
    Panel("Denoising loss", {"denoising_loss": "training", VALIDATION + "denoising_loss": "held out"}),
    Panel("Energies", {"energy_data": "data", "energy_samples": "samples"}),
    Panel(
        "Held-out energies",
        {VALIDATION + "energy_data": "data", VALIDATION + "energy_noise": "uniform noise"},
    ),
    Panel(
        "AUROC of held-out data against its corruptions",
        {VALIDATION + f"auroc_{name}": name for name in ("noise", "rotated", "shuffled", "blurred", "mixed")},
    ),
    Panel("Classes", {"cross_entropy": "cross-entropy (training)", VALIDATION + "accuracy": "accuracy"}),
    Panel("Norm of the gradient", {"gradient_norm": "norm"}),
    Panel("Distance of chains from their starts", {"displacement": "root mean square"}),
)


def draw_curves(folder: Path, theme: Theme = LIGHT) -> Path | None:
    """Write `curves.png` beside the `metrics.csv` of a run; None if there is nothing to draw yet."""
    rows = [
        {name.split("/", 1)[1] if is_part(name) else name: value for name, value in row.items()}
        for row in read_metrics(folder / "metrics.csv")
    ]
    return draw_panels(folder / CURVES_FILE, rows, PANELS, theme=theme)


def is_part(name: str) -> bool:
    """Whether a figure of the log is that of a part of a combined objective."""
    return name.startswith(("denoising/", "contrastive/"))
