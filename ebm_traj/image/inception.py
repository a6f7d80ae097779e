"""FID and IS with the standard Inception weights, computed by torch-fidelity from a file the user gives."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.datasets.pictures import with_channels
from ebm_traj.errors import InputError, RunError
from ebm_traj.image.pictures import to_uint8

KEYS = {
    "frechet_inception_distance": "fid",
    "inception_score_mean": "is",
    "inception_score_std": "is_std",
    "kernel_inception_distance_mean": "kid",
    "kernel_inception_distance_std": "kid_std",
}


class _Bytes(torch.utils.data.Dataset[Tensor]):
    """Pictures (3, H, W) of unsigned bytes, as torch-fidelity reads them."""

    def __init__(self, x: NDArray[np.uint8]) -> None:
        self.x = torch.from_numpy(np.ascontiguousarray(with_channels(x, 3).transpose(0, 3, 1, 2)))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        return self.x[row]


def inception_scores(
    samples: Tensor | NDArray[np.uint8], real: NDArray[np.uint8], weights: Path, *, cuda: bool = False
) -> dict[str, float]:
    """`fid`, `is`, `is_std`, `kid`, `kid_std` of samples against real pictures (N, H, W, C) of bytes.

    `weights` is torch-fidelity's file of the TensorFlow network (weights-inception-2015-12-05-6726825d.pth).
    Pictures of one channel are repeated over three. Published figures are of 50,000 samples: with fewer, FID
    is higher. Raises InputError if torch-fidelity is not installed or the file is no such thing.
    """
    check_weights(weights)
    import torch_fidelity

    x = to_uint8(samples) if isinstance(samples, Tensor) else samples
    kid_size = min(1000, len(x), len(real))
    try:
        found: dict[str, Any] = torch_fidelity.calculate_metrics(
            input1=_Bytes(x),
            input2=_Bytes(real),
            fid=True,
            isc=True,
            kid=True,
            kid_subset_size=kid_size,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights),
            cuda=cuda,
            cache=False,
            save_cpu_ram=True,  # no processes to load what is in memory
            verbose=False,
        )
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"inception: torch-fidelity failed ({reason})") from error
    return {short: float(found[long]) for long, short in KEYS.items() if long in found}


def check_weights(weights: Path) -> None:
    """InputError unless torch-fidelity is here and the file holds plain tensors of its Inception network."""
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise InputError("inception: needs torch-fidelity: pip install 'ebm_traj[fidelity]'") from None
    if not weights.is_file():
        raise InputError(f"inception: no file {weights}; needed are torch-fidelity's Inception weights")
    try:  # torch-fidelity unpickles without looking
        state = torch.load(weights, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # torch.load raises nearly anything
        reason = str(error).splitlines()[0]
        raise InputError(f"inception: {weights} holds no plain tensors ({reason})") from None
    if not isinstance(state, dict) or "Mixed_7c.branch1x1.conv.weight" not in state:
        raise InputError(f"inception: {weights} holds no Inception network of torch-fidelity")
