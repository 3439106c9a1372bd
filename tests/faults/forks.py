"""Verbs in processes of their own that cost no start: forked off one that has imported everything.

``python forks.py`` reads requests, a line of JSON each, and answers each with a line.
"""

import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults.shim import Faults

PATIENCE_S = 120.0
HUNG = -1000  # a process that did not end in time
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, or the signal as a negative number; what it said."""

    code: int
    seconds: float
    said: str


class Forks:
    """Runs verbs, one at a time, in children of a process that preloads the shim."""

    def __init__(self, shim: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.shim = shim
        self.faults = Faults(folder / "state")
        self._said = folder / "said"
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={
                **os.environ, "LD_PRELOAD": str(shim), "FAULT_STATE": str(self.faults.path),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                "OMP_NUM_THREADS": "1", "COLUMNS": "200",
            },
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stdin.close()
        self._server.wait()

    def run(self, *commands: Sequence[object], patience_s: float = PATIENCE_S) -> Ended:
        """Run command lines one after the other in one process, up to one that fails."""
        return self.together([commands], patience_s)[0]

    def together(
        self, processes: Sequence[Sequence[Sequence[object]]], patience_s: float = PATIENCE_S
    ) -> list[Ended]:
        """Run several such processes at the same time."""
        saids = [self._said.with_name(f"said-{n}.txt") for n in range(len(processes))]
        request = {
            "processes": [
                [[os.fsdecode(os.fspath(word) if isinstance(word, Path) else str(word))
                  for word in command] for command in commands]
                for commands in processes
            ],
            "saids": list(map(str, saids)), "patience_s": patience_s,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answers = json.loads(self._server.stdout.readline())
        return [
            Ended(code, answers["seconds"], said.read_text("utf-8", "replace"))
            for code, said in zip(answers["codes"], saids, strict=True)
        ]


def serve() -> None:
    """Answer requests until there are no more."""
    import wsi_pipeline
    from wsi_pipeline.features import weights

    for module in pkgutil.walk_packages(wsi_pipeline.__path__, "wsi_pipeline."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("cv2", "scipy.optimize", "scipy.ndimage", "matplotlib.pyplot", "skimage.draw",
                 "sklearn.linear_model", "torch.utils.data", "distributed"):  # fmt: skip
        importlib.import_module(name)
    weights.import_timm()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise SystemExit(f"importing started {threads - 1} threads: children would hang")
    for line in sys.stdin:
        request = json.loads(line)
        answer = _run(request["processes"], request["saids"], request["patience_s"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(processes: list[list[list[str]]], saids: list[str], patience_s: float) -> dict[str, Any]:
    began = time.monotonic()
    children = []
    for commands, said in zip(processes, saids, strict=True):
        child = os.fork()
        if not child:
            _work(commands, said)
        children.append(child)
    codes = [_wait(child, max(0.0, began + patience_s - time.monotonic())) for child in children]
    return {"codes": codes, "seconds": time.monotonic() - began}


def _wait(child: int, patience_s: float) -> int:
    """Wait for a process; return its exit status, one of our own if it had to be killed."""
    handle = os.pidfd_open(child)
    in_time, _, _ = select.select([handle], [], [], patience_s)
    os.close(handle)
    if not in_time:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if in_time else HUNG


def _work(commands: list[list[str]], said: str) -> None:
    from wsi_pipeline.cli import main

    os.setsid()
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 99
    try:
        for command in commands:
            code = main(command)
            if code:
                break
    except BaseException:  # as the interpreter would do
        import traceback

        traceback.print_exc()
        code = 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
