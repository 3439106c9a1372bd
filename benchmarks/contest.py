"""Peers as contestants: each run in its own environment, by the script that runs it."""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import PEERS, Peer, Task, prepare
from benchmarks.runners.protocol import DOES_NOT

ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
ENVIRONMENTS: Final = Path(tempfile.gettempdir()) / "wsi-peers"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A peer that can run; ``python`` is its environment's."""

    peer: Peer
    python: Path


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run came to: the runner's own figures, and its seconds by the clock, start and all."""

    figures: dict[str, float]
    seconds: float

    @property
    def rate(self) -> float:
        """Tiles a second, the process's start included."""
        return self.figures["tiles"] / self.seconds


def add_peer_flags(parser: argparse.ArgumentParser) -> None:
    """Add where the peers' environments lie, and which of them take part."""
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="their environments")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="*", choices=names, metavar="PEER", help=", ".join(names))


def peers_for(
    task: Task, folder: Path, only: Sequence[str] | None = None
) -> tuple[list[Ready], list[str]]:
    """Make the environments of those that do a task; also return why others cannot.

    Args:
        task: What they shall do.
        folder: Where their environments lie.
        only: The peers that take part; None lets all.
    """
    ready, missing = [], []
    for peer in PEERS:
        if task not in peer.does or (only is not None and peer.name not in only):
            continue
        python = prepare(peer, folder)
        if isinstance(python, Path):
            ready.append(Ready(peer=peer, python=python))
        else:
            missing.append(f"{peer.name} could not be installed: {python.rstrip('.')}")
    return ready, missing


def run_peer(
    ready: Ready, task: Task, arguments: Sequence[str], *, one_thread: bool = False
) -> Ran:
    """Run a peer once.

    Raises:
        RuntimeError: It failed; the last line of what it said.
    """
    command = [str(ready.python), str(ready.peer.script(task)), *arguments]
    environment = os.environ | (ONE_THREAD if one_thread else {})
    environment.pop("PYTHONPATH", None)
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        said = (done.stdout if done.returncode == DOES_NOT else done.stderr).strip()
        raise RuntimeError(f"{ready.peer.name}: {said.splitlines()[-1] if said else 'no word'}")
    return Ran(figures=json.loads(done.stdout.strip().splitlines()[-1]), seconds=seconds)


def willing(found: Sequence[Ready], run: Callable[[Ready], Ran], missing: list[str]) -> list[Ready]:
    """Let each peer try once; those that fail are named in ``missing``."""
    able = []
    for ready in found:
        try:
            run(ready)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            missing.append(f"{ready.peer.name} did not run: {error}")
        else:
            able.append(ready)
    return able
