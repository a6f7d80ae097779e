"""Pictures as rows of visible units, and how their grey levels become binary."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import bernoulli
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError

Binarisation = Literal["stochastic", "threshold", "none"]
"""stochastic: a pixel is 1 with its grey level as the probability, drawn anew in every update, and once, by a
fixed seed, in held-out rows; threshold: 1 from mid-grey on; none: the grey levels themselves as v."""


def intensities(pictures: PictureSet) -> Tensor:
    """Grey levels (N, n) in [0, 1], n = C H W."""
    return torch.from_numpy(pictures.x).permute(0, 3, 1, 2).flatten(1).float() / 255


def require_binarisation(kind: str) -> None:
    """InputError if it is none of `Binarisation`."""
    if kind not in get_args(Binarisation):
        raise InputError(f"binarisation '{kind}'; accepted are {', '.join(get_args(Binarisation))}")


def binarise(levels: Tensor, kind: Binarisation, generator: torch.Generator | None = None) -> Tensor:
    """Visible rows from grey levels (N, n)."""
    if kind == "stochastic":
        return bernoulli(levels, generator)
    return (levels >= 0.5).to(levels) if kind == "threshold" else levels


def held_out(levels: Tensor, kind: Binarisation, seed: int = 0) -> Tensor:
    """Binarised rows (N, n) for evaluation: the same for every model and run of a seed."""
    return binarise(levels, kind, seeded_generator(levels.device, "held out", seed))
