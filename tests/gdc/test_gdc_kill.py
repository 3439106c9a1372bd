"""Killed again and again, a download ends with every file whole, and hardly a byte sent twice."""

import hashlib
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_pipeline.cli import main

FILES, KILLS = 20, 10
PRELOADED = [
    "wsi_pipeline.cli",
    "wsi_pipeline.pipeline.download_gdc",
    "wsi_pipeline.gdc",
    "wsi_pipeline.screen",
]


def test_killed_ten_times(stand_in: Any, manifest: Callable[..., Path], tmp_path: Path) -> None:
    rng = random.Random(3)
    entries = [stand_in.add(rng.randrange(1_000_000, 3_000_000)) for _ in range(FILES)]
    total = sum(entry.size for entry in entries)
    stand_in.pace = 1e6  # bytes per second, of each connection
    stand_in.tell()
    out = tmp_path / "slides"
    command = ["download", str(manifest(entries)), f"--out={out}", f"--server={stand_in.url}"]
    command += ["--segment-mib=0.5", "--connections=6", "--first-wait-s=0.01"]
    processes = multiprocessing.get_context("forkserver")  # imports once what each would import
    processes.set_forkserver_preload(PRELOADED)
    for _ in range(KILLS):
        goal = stand_in.progress() + rng.uniform(0.01, 0.09) * total
        process = processes.Process(target=main, args=(command,))
        process.start()
        while stand_in.progress() < goal and process.is_alive():
            time.sleep(0.01)
        assert process.is_alive(), "the download ended before it was killed"
        process.kill()
        process.join()
    finished = sum((out / entry.relative_path).exists() for entry in entries)
    assert 0 < finished < FILES
    stand_in.faster()
    assert main(command) == 0
    for entry in entries:
        data = (out / entry.relative_path).read_bytes()
        assert hashlib.md5(data).hexdigest() == entry.md5
    sent = stand_in.sent()
    assert total <= sent <= 1.1 * total, f"{sent / total:.3f} of the total was sent"
    assert list(out.rglob("*.partial*")) == []
    print(f"sent {sent} of {total} bytes: {sent / total:.4f}")
