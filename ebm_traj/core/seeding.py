"""Random streams as a pure function of what they are for, so that a resumed run computes its place."""

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str | np.integer) -> int:
    """A 63-bit seed from any numbers and words, the same on every machine."""
    plain = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seeded_generator(device: torch.device | str, *parts: int | str | np.integer) -> torch.Generator:
    """A generator on `device` seeded by `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
