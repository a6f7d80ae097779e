"""Random streams as a pure function of what they are for, so that a resumed run computes its place."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and words, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seeded_generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on `device` seeded by `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
