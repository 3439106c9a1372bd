"""A GPU for each worker process of a machine, whatever the workers are called."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock, Timeout

from wsi_pipeline.errors import ConfigError

CLAIMS: Final = "wsi-gpus"


@cache
def own_gpu() -> str | None:
    """Claim a GPU of this machine for this process until it ends; None where there is none.

    Raises:
        ConfigError: Others have them all.
    """
    names = [
        str(torch.cuda.get_device_properties(k).uuid) for k in range(torch.cuda.device_count())
    ]
    if not names:
        return None
    number = claim(names)
    if number is None:
        raise ConfigError(
            f"the {len(names)} GPUs of this machine have a worker each, and this is one more; "
            "start no more workers than GPUs, or name the one to share with --device cuda:0"
        )
    return f"cuda:{number}"


def claim(names: Sequence[str]) -> int | None:
    """Take the first of these devices that no process has; None where each is taken.

    The claim is a lock of the operating system, which ends with the process.
    """
    folder = Path(tempfile.gettempdir()) / f"{CLAIMS}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number, name in enumerate(names):
        lock = FileLock(folder / name, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _HELD.append(lock)
        return number
    return None


_HELD: Final[list[FileLock]] = []  # a lock that nobody refers to is let go
