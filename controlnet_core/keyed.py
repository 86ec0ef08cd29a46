"""Keyed randomness: a private generator for every draw, seeded by its purpose; and digests that serve as names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from .errors import SettingError


def keyed_seed(*key: int | str) -> int:
    """Hash a key to a seed of 63 bits, the same on every machine and in every process.

    Arguments:
        key: What the draw is for, such as ("noise", seed, step, slot). Order counts, and 1 is not "1".

    Raises:
        SettingError: If a part of the key is neither an int nor a string.
    """
    for part in key:
        if type(part) not in (int, str):
            raise SettingError(f"{part!r} in a random key", "ints and strings only", "convert it with int() or str()")
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """Make a CPU generator that belongs to `key` alone: equal keys draw equal numbers, whatever was drawn before."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def digest(*parts: object, size: int = 16) -> str:
    """Name something by its parts: `size` bytes as hexadecimal digits, the same on every machine.

    Arguments:
        parts: Strings, numbers, and lists or tuples of these, whose `repr` is complete.
        size: Bytes of the digest.
    """
    return hashlib.blake2b(repr(parts).encode(), digest_size=size).hexdigest()


def file_digest(path: Path) -> str:
    """Name a file by its content, read piece by piece; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def add_weights(digest: hashlib.blake2b, module: nn.Module) -> None:
    """Add a module's weights to a digest, by their names and as float32, wherever and in whatever dtype they are."""
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().data)
