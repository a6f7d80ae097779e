"""Devices of this machine."""

import torch

from ebm_traj.errors import InputError


def require_device(device: torch.device | str, option: str = "device") -> None:
    """Raise InputError if torch finds no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"{option} {device}: not on this machine; accepted are cpu and what torch finds"
        ) from None
