"""A deep belief net fine-tuned as a classifier: its layers become a network's, with a softmax on top."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebm_traj.boltzmann.dbn import DBN
from ebm_traj.boltzmann.files import as_json
from ebm_traj.core.checkpoint import load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.objectives import Batch
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig, TrainReport
from ebm_traj.errors import InputError
from ebm_traj.image.classifier_training import CrossEntropy
from ebm_traj.image.pictures import LABEL

CLASSIFIER_FILE = "classifier"
CHUNK = 10_000


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """How a deep belief net becomes a classifier."""

    visible_dropout: float = 0.2
    """Share of the visible units left out in each row of a step (Srivastava et al. 2014)."""
    hidden_dropout: float = 0.5
    """The same of each hidden layer's units."""
    batch_size: int = 256
    """Rows in a step."""
    bfloat16: bool = False
    """Multiply in half the bits, nearly twice as fast where the processor has such products."""
    trainer: TrainerConfig = dataclasses.field(
        default_factory=lambda: TrainerConfig(
            iterations=12_000,
            learning_rate=1e-3,
            warmup=200,
            final_learning_rate=0.01,
            ema_decay=0.998,
            log_every=100,
            checkpoint_every=1000,
            validate_every=500,
            keep_margin=0.0,
        )
    )
    """The loop; the averaged weights of the lowest held-out error are kept."""

    def __post_init__(self) -> None:
        for name in ("visible_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted is 0 to below 1")
        if self.batch_size < 1:
            raise InputError(f"batch size: {self.batch_size}; accepted are 1 and more")


class DBNClassifier(nn.Module):
    """Logits (B, classes) of rows v (B, n): the net's way up by sigmoid units, then a linear layer."""

    def __init__(self, sizes: list[int], classes: int, visible_dropout: float, hidden_dropout: float) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Dropout(visible_dropout)]
        for below, above in itertools.pairwise(sizes):
            parts += [nn.Linear(below, above), nn.Sigmoid(), nn.Dropout(hidden_dropout)]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(sizes[-1], classes)
        self.sizes, self.classes = sizes, classes

    @classmethod
    def of(cls, dbn: DBN, classes: int, config: FineTuneConfig) -> "DBNClassifier":
        """A network with the weights of the net; the softmax begins at zero."""
        network = cls(dbn.sizes, classes, config.visible_dropout, config.hidden_dropout)
        linear = [part for part in network.body if isinstance(part, nn.Linear)]
        with torch.no_grad():
            for part, rbm in zip(linear, dbn.rbms, strict=True):
                part.weight.copy_((rbm.weights * rbm.precision[:, None]).T)  # precision is 1 for binary units
                part.bias.copy_(rbm.hidden_bias)
            network.head.weight.zero_()
            network.head.bias.zero_()
        return network

    def forward(self, v: Tensor) -> Tensor:
        return self.head(self.body(v))


@torch.no_grad()
def error_rate(network: nn.Module, v: Tensor, y: Tensor) -> float:
    """Share of rows v (N, n) whose class y (N,) the network does not name."""
    was = network.training
    network.eval()
    parts = zip(v.split(CHUNK), y.split(CHUNK), strict=True)
    wrong = sum(int((network(rows).argmax(1) != classes).sum()) for rows, classes in parts)
    network.train(was)
    return wrong / len(v)


def fine_tune(
    network: DBNClassifier,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    config: FineTuneConfig,
    out: Path,
    *,
    identity: dict[str, Any] | None = None,
    device: str = "cpu",
    resume: bool = False,
) -> tuple[DBNClassifier, TrainReport]:
    """Train all layers by cross-entropy on rows and classes ((N, n), (N,)); keep the best on validation.

    Dropout draws from torch's global generator, seeded here in every step by the trainer's one.
    """
    objective = SeededCrossEntropy(network, config.batch_size, bfloat16=config.bfloat16)
    v, y = train

    def draw(iteration: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(v), (config.batch_size,), generator=generator, device=v.device)
        return Batch(v[rows], {LABEL: y[rows]})

    def validate(average: nn.Module) -> dict[str, float]:
        return {"error": error_rate(average.network, *validation)}  # type: ignore[arg-type]

    out.mkdir(parents=True, exist_ok=True)
    said = as_json({"config": dataclasses.asdict(config), **(identity or {})})
    loop = Trainer(objective, draw, config.trainer, out, make_fabric(device), said, validate, score="error")
    if resume and (out / TRAINING_FILE).is_file():
        loop.resume()
    report = loop.fit()
    chosen = loop.ema.module.network
    assert isinstance(chosen, DBNClassifier)
    return chosen.eval().requires_grad_(False), report


class SeededCrossEntropy(CrossEntropy):
    """Cross-entropy whose dropout is the step's own, so that a resumed run makes the same one."""

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device = batch.x.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return super().forward(batch, generator)


def save_classifier(network: DBNClassifier, folder: Path, card: dict[str, Any]) -> None:
    """Write `classifier.safetensors` and `classifier.json`."""
    save_tensors(folder / f"{CLASSIFIER_FILE}.safetensors", network.state_dict(), {"sizes": network.sizes})
    save_json(
        folder / f"{CLASSIFIER_FILE}.json", {"sizes": network.sizes, "classes": network.classes, "card": card}
    )


def load_classifier(folder: Path | str, device: torch.device | str = "cpu") -> DBNClassifier:
    """The classifier of a folder, without dropout; InputError if there is none."""
    folder = Path(folder)
    about = load_json(folder / f"{CLASSIFIER_FILE}.json")
    network = DBNClassifier(about["sizes"], about["classes"], 0.0, 0.0)
    network.load_state_dict(load_tensors(folder / f"{CLASSIFIER_FILE}.safetensors")[0])
    return network.to(device).eval().requires_grad_(False)
