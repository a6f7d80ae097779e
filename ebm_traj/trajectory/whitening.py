"""Whitening of what networks are told: the principal directions of it, each scaled to about 1.

Changes of neighbouring frames, joints and actions go together. Training by gradients is slow along directions
in which inputs hardly vary (LeCun et al. 1998, "Efficient BackProp", section 4.3), and here those hold what
tells one future from another.
"""

import torch
from torch import Tensor, nn

from ebm_traj.errors import InputError


class Whitening(nn.Module):
    """features (B, F) -> (features - mean) U / sqrt(variances + floor^2), U their principal directions.

    The identity until `fit` is called.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("matrix", torch.eye(size))

    @torch.no_grad()
    def fit(self, rows: Tensor, floor: float) -> None:
        """Set mean and directions to those of `rows` (N, F); variation well below `floor` is not enlarged.

        Raises InputError for fewer than two rows, or if any are not finite.
        """
        if len(rows) < 2 or not torch.isfinite(rows).all():
            raise InputError(f"whitening: {len(rows)} rows; needed are 2 and more, and finite")
        rows = rows.double()
        centred = rows - rows.mean(0)
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
        self.mean.copy_(rows.mean(0))
        self.matrix.copy_(directions * (variances.clamp_min(0) + floor**2).rsqrt())

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) @ self.matrix
