"""Killed again and again, a download still ends with every file whole, and hardly anything twice."""

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES, KILLS = 20, 10


def test_killed_ten_times(stand_in: Any, manifest: Callable[..., Path], tmp_path: Path) -> None:
    rng = random.Random(3)
    entries = [stand_in.add(rng.randrange(2_000_000, 6_000_000)) for _ in range(FILES)]
    total = sum(entry.size for entry in entries)
    stand_in.pace = 2e6  # of each connection
    stand_in.tell()
    out = tmp_path / "slides"
    command = [
        *(sys.executable, "-m", "wsi_pipeline.download"),
        *(str(manifest(entries)), f"--out={out}", f"--server={stand_in.url}"),
        *("--segment-mib=1", "--connections=6", "--first-wait-s=0.01"),
    ]
    kills = 0
    while kills < KILLS:
        sent = stand_in.progress()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = sent + rng.uniform(0.01, 0.09) * total
        while stand_in.progress() < goal and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills == KILLS, "the download ended before it was killed often enough"
    finished = sum((out / entry.relative_path).exists() for entry in entries)
    assert finished < FILES
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    for entry in entries:
        data = (out / entry.relative_path).read_bytes()
        assert hashlib.md5(data).hexdigest() == entry.md5
    assert stand_in.sent() <= 1.1 * total, f"{stand_in.sent() / total:.3f} of the total was sent"
    assert list(out.rglob("*.partial*")) == []
    print(f"sent {stand_in.sent()} of {total} bytes, {stand_in.sent() / total:.4f}")
