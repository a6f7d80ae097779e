"""The deep belief net: RBMs stacked greedily, with its ways up and down and its samples."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_traj.boltzmann.data import Binarisation
from ebm_traj.boltzmann.files import load_rbm, save_rbm
from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.boltzmann.training import TRAINING_FILE, RBMConfig, RBMTrainer
from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.errors import InputError

DBN_FILE = "dbn.json"
LAYER = "layer-{}"
CHUNK = 10_000


class DBN(nn.Module):
    """RBMs on top of each other: hidden units of one are visible units of the next (Hinton et al. 2006)."""

    def __init__(self, layers: Sequence[RBM], bases: Sequence[Tensor]) -> None:
        """`bases` are each layer's base biases. InputError if the layers' sizes do not fit."""
        super().__init__()
        if not layers or len(layers) != len(bases):
            raise InputError(
                f"DBN: {len(layers)} layers, {len(bases)} base biases; needed are as many, one or more"
            )
        for below, above in itertools.pairwise(layers):
            if below.hidden_size != above.visible_size or above.units != "bernoulli":
                raise InputError(
                    f"DBN: {above.visible_size} {above.units} units on {below.hidden_size} hidden ones; "
                    "needed are as many binary ones"
                )
        self.layers = nn.ModuleList(layers)
        self.cpu_seconds = 0.0
        """What `train_dbn` took for all layers, over all sittings."""
        self.bases = list(bases)

    @property
    def rbms(self) -> list[RBM]:
        """The layers, lowest first."""
        return [cast(RBM, layer) for layer in self.layers]

    @property
    def sizes(self) -> list[int]:
        """Units of each layer, the visible one first."""
        return [self.rbms[0].visible_size, *(rbm.hidden_size for rbm in self.rbms)]

    @torch.no_grad()
    def up(self, v: Tensor, layers: int | None = None) -> Tensor:
        """Means of the hidden units of a layer (default: the highest) given those below, from v (B, n)."""
        for rbm in self.rbms[:layers]:
            v = rbm.hidden_mean(v)
        return v

    @torch.no_grad()
    def down(
        self, h: Tensor, generator: torch.Generator | None = None, *, layers: int | None = None
    ) -> Tensor:
        """Means of v (B, n) from states of a layer (default: the visible one of the top RBM).

        With a generator the layers between are sampled, without one they are at their means.
        """
        below = self.rbms[: len(self.rbms) - 1 if layers is None else layers]
        for rbm in reversed(below):
            mean = rbm.visible_mean(h)
            lowest = rbm is self.rbms[0]
            h = mean if lowest or generator is None else rbm.sample_visible(h, generator)
        return h

    @torch.no_grad()
    def generate(
        self, count: int, steps: int, generator: torch.Generator, start: Tensor | None = None
    ) -> Tensor:
        """Means of v (count, n): Gibbs steps in the top RBM, then one way down.

        The chains begin at the top RBM's base machine, or at pictures `start` (count, n) taken up.
        """
        top = self.rbms[-1]
        if start is None:
            from ebm_traj.boltzmann.tempering import Path as Tempering

            v = Tempering(top, self.bases[-1]).start(count, generator)
        else:
            v = self.up(start, len(self.rbms) - 1)
        mean = v
        for _ in range(steps):
            h = top.sample_hidden(v, generator)
            mean = top.visible_mean(h)
            v = top.sample_visible(h, generator)
        return mean if len(self.rbms) == 1 else self.down(v, generator)

    def reconstruct(self, v: Tensor) -> Tensor:
        """Means of v (B, n) after one way up to the highest layer and down again, without chance."""
        return self.down(self.up(v), layers=len(self.rbms))

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write `dbn.json` and a folder for each layer."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, (rbm, base) in enumerate(zip(self.rbms, self.bases, strict=True)):
            save_rbm(folder / LAYER.format(i), rbm, base, {})
        save_json(folder / DBN_FILE, {"layers": len(self.rbms), "sizes": self.sizes, "card": card})


def load_dbn(folder: Path | str, device: torch.device | str = "cpu") -> DBN:
    """The net saved in a folder; InputError if there is none."""
    folder = Path(folder)
    count = load_json(folder / DBN_FILE)["layers"]
    found = [load_rbm(folder / LAYER.format(i), device) for i in range(count)]
    return DBN([rbm for rbm, *_ in found], [base for _, base, _ in found])


@dataclasses.dataclass(frozen=True)
class DBNConfig:
    """A deep belief net and how its layers are trained."""

    hidden: tuple[int, ...] = (500, 500, 2000)
    """Hidden units of each layer, lowest first."""
    layer: RBMConfig = dataclasses.field(
        default_factory=lambda: RBMConfig(
            learning=LearningConfig(algorithm="cd", weight_decay=2e-4), updates=10_000, learning_rate=0.1
        )
    )
    """Training of each layer (its `hidden` is ignored)."""
    upper_binarisation: Binarisation = "none"
    """How the means of a layer become data of the next: none, the means themselves, has less noise (Hinton
    2010, section 3); stochastic is what the net generates."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden: {self.hidden}; needed are one or more sizes of 1 and more")
        if self.layer.units != "bernoulli":
            raise InputError("DBN: its layers are binary; accepted units are bernoulli")


def train_dbn(
    config: DBNConfig,
    train: Tensor,
    folder: Path,
    *,
    validation: Tensor | None = None,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
) -> DBN:
    """Train layer on layer on rows of grey levels (N, n); each sees the means of the one below.

    Every layer has a folder of its own with log and checkpoint; `resume` skips the finished ones.
    """
    rbms, bases, seconds = [], [], 0.0
    for i, hidden in enumerate(config.hidden):
        settings = dataclasses.replace(config.layer, hidden=hidden, seed=config.layer.seed + i)
        if i:
            settings = dataclasses.replace(settings, binarisation=config.upper_binarisation)
        out = folder / LAYER.format(i)
        out.mkdir(parents=True, exist_ok=True)
        trainer = RBMTrainer(settings, train, out, validation=validation, identity=identity)
        if resume and (out / TRAINING_FILE).is_file():
            trainer.resume()
        rbm = trainer.fit()
        rbms.append(rbm)
        bases.append(trainer.base)
        seconds += trainer.seconds
        train = _means(rbm, train)
        validation = None if validation is None else _means(rbm, validation)
    dbn = DBN(rbms, bases)
    dbn.cpu_seconds = seconds
    return dbn


def _means(rbm: RBM, rows: Tensor) -> Tensor:
    return torch.cat([rbm.hidden_mean(part) for part in rows.split(CHUNK)])
