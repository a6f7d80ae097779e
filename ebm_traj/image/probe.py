"""A convolutional network that reads all factors of a sprite: what judges compositions."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ebm_traj.core.checkpoint import load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.energy import Condition
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.seeding import derive_seed
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.sprite_world import SYMMETRY, draw_factors, draw_pictures, read_right

SPREAD_OF_SIZES = 0.3
"""The probe learns sizes this far beyond 0..1, and all between: it reads sizes that are off as such."""
WEIGHTS, SETTINGS = "probe.safetensors", "probe.json"

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Network and training of a `SpriteProbe`."""

    pixels: int = 16
    """Side of the pictures, a multiple of 8."""
    channels: int = 24
    """After the first of three strided convolutions."""
    pictures: int = 20_000
    """Of all combinations, held-out ones too; each is also seen turned by right angles."""
    batch_size: int = 128
    """Pictures in a step."""
    noise: float = 0.15
    """Largest standard deviation of the noise on pictures in [-1, 1]."""
    trainer: TrainerConfig = dataclasses.field(
        default_factory=lambda: TrainerConfig(iterations=1500, learning_rate=2e-3, validate_every=0)
    )

    def __post_init__(self) -> None:
        if self.pixels < 8 or self.pixels % 8:
            raise InputError(f"probe pixels: {self.pixels}; accepted are multiples of 8")
        if self.pictures < self.batch_size or self.batch_size < 1:
            raise InputError(f"probe pictures: {self.pictures}; accepted are a batch and more")


class SpriteProbe(nn.Module):
    """Pictures (B, 1, H, W) in [-1, 1] to (B, 12): shape logits, size, x, y, cos and sin of the turn for each
    shape, times its symmetry."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        wide, side = config.channels, config.pixels // 8
        self.network = nn.Sequential(
            *[nn.Conv2d(1, wide, 4, 2, 1), nn.SiLU()],
            *[nn.Conv2d(wide, 2 * wide, 4, 2, 1), nn.SiLU()],
            *[nn.Conv2d(2 * wide, 2 * wide, 4, 2, 1), nn.SiLU()],
            nn.Flatten(),
            *[nn.Linear(2 * wide * side**2, 128), nn.SiLU(), nn.Linear(128, 12)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    @torch.no_grad()
    def read(self, x: Tensor) -> Array:
        """Factors (N, 5) as `draw_factors` gives them; rotation modulo the symmetry of the shape read."""
        said = torch.cat([self(some) for some in x.split(512)]).double()
        shape = said[:, :3].argmax(1)
        turns = said[:, 6:].view(-1, 3, 2)[torch.arange(len(x)), shape]
        symmetry = torch.tensor(SYMMETRY, dtype=torch.float64)[shape]
        turn = torch.atan2(turns[:, 1], turns[:, 0]) / symmetry % (2 * math.pi / symmetry)
        return torch.stack([shape.double(), said[:, 3], turn, said[:, 4], said[:, 5]], 1).numpy()


class ProbeLoss(Objective):
    """Cross-entropy of the shape, squared errors of the others; of turns, those of the true shape."""

    def __init__(self, probe: SpriteProbe, config: ProbeConfig) -> None:
        super().__init__()
        self.probe = probe
        self.noise = config.noise
        self.new_rows = self.batch_size = config.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        amount = self.noise * torch.rand((len(batch), 1, 1, 1), generator=generator)
        noisy = batch.x + amount * torch.empty_like(batch.x).normal_(generator=generator)
        said, factors = self.probe(noisy), batch.condition["factors"]
        shape = factors[:, 0].long()
        angle = factors[:, 2] * torch.tensor(SYMMETRY)[shape]
        turn = said[:, 6:].view(-1, 3, 2)[torch.arange(len(said)), shape]
        parts = {
            "shape": nn.functional.cross_entropy(said[:, :3], shape),
            "size": 4 * (said[:, 3] - factors[:, 1]).square().mean(),
            "place": 8 * (said[:, 4:6] - factors[:, 3:]).square().mean(),
            "turn": (turn - torch.stack([angle.cos(), angle.sin()], 1)).square().mean(),
        }
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


def quarter_turned(x: Tensor, factors: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 1, H, W) turned by right angles as x turns towards y (down), and their factors (B, 5)."""
    turned = factors.clone()
    for _ in range(times % 4):
        # a point right of the centre comes below it
        turned[:, 3:] = torch.stack([1 - turned[:, 4], turned[:, 3]], 1)
        turned[:, 2] = (turned[:, 2] + 0.5 * math.pi) % (2 * math.pi)
    return x.rot90(-times, (2, 3)), turned


def train_probe(config: ProbeConfig, out: Path, *, resume: bool = False) -> SpriteProbe:
    """Train a probe on pictures of all combinations and save it in `out`."""
    if out.exists() and not resume:
        raise InputError(f"{out}: exists already; give another folder, or resume the run in it")
    seed = config.trainer.seed
    rng = np.random.default_rng(derive_seed(seed, "probe pictures"))
    values = draw_factors(config.pictures, rng)
    values[:, 1] = rng.uniform(-SPREAD_OF_SIZES, 1 + SPREAD_OF_SIZES, len(values))
    pictures = torch.from_numpy(draw_pictures(values, config.pixels))
    factors = torch.from_numpy(values).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "probe weights"))
        probe = SpriteProbe(config)

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        pick = torch.randint(len(pictures), (config.batch_size,), generator=generator)
        x, told = quarter_turned(pictures[pick], factors[pick], iteration)
        condition: Condition = {"factors": told}
        return Batch(x, condition)

    identity = {"probe": repr(config)}
    loss = ProbeLoss(probe, config)
    trainer = Trainer(loss, batches, config.trainer, out, make_fabric("cpu"), identity)
    if resume and (out / TRAINING_FILE).is_file():
        trainer.resume()
    out.mkdir(parents=True, exist_ok=True)
    trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())
    save_tensors(out / WEIGHTS, probe.state_dict(), {})
    save_json(out / SETTINGS, dataclasses.asdict(config))
    return probe.eval().requires_grad_(False)


def load_probe(folder: Path) -> SpriteProbe:
    """A probe saved by `train_probe`. Raises InputError if there is none."""
    settings = load_json(folder / SETTINGS)
    probe = SpriteProbe(ProbeConfig(pixels=settings["pixels"], channels=settings["channels"]))
    probe.load_state_dict(load_tensors(folder / WEIGHTS)[0])
    return probe.eval().requires_grad_(False)


def probe_accuracy(probe: SpriteProbe, pixels: int, count: int = 2000, seed: int = 1) -> dict[str, float]:
    """Shares of factors read rightly in new pictures of all combinations: the ceiling of any score by it."""
    rng = np.random.default_rng(derive_seed(seed, "probe test"))
    factors = draw_factors(count, rng)
    read = probe.read(torch.from_numpy(draw_pictures(factors, pixels)))
    return read_right(read, factors).shares()
