"""Random generators that depend on names alone, never on the order of work."""

import hashlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator for one purpose, the same whichever process asks and when."""
    text = "\x1f".join((str(seed), *names)).encode()
    words = np.frombuffer(hashlib.sha256(text).digest(), np.uint32)
    return np.random.default_rng(np.random.SeedSequence(words.tolist()))
