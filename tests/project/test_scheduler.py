"""A Dask scheduler and two workers started by hand make the same stores as one process does."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsi_pipeline.tiles import open_tiles

SLIDES = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    where = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    processes = [subprocess.Popen([*dask, "scheduler", *where], **quiet)]
    processes += [
        subprocess.Popen([*dask, "worker", address, "--nthreads", "1", "--no-dashboard"], **quiet)
        for _ in range(2)
    ]
    try:
        _wait_for_workers(address, 2)
        yield address
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def _wait_for_workers(address: str, number: int) -> None:
    from distributed import Client

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with Client(address, timeout=2) as client:
                client.wait_for_workers(number, timeout=30)
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the scheduler did not start")


def verb(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"wsi_pipeline.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_scheduler_makes_the_same_stores(tmp_path: Path, data_dir: Path, scheduler: str) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in SLIDES:
        shutil.copy(data_dir / "slides" / name, slides)
    here, there = tmp_path / "here", tmp_path / "there"
    encoder = ("--encoder", "test_resnet", "--weights", "random")
    for run, how in ((here, ("--workers", 0)), (there, ("--scheduler", scheduler))):
        out = verb("tile", slides, "--run", run, "--mpp-override", 0.5, *how)
        assert re.search(r"slides done +│ +2", out)
        verb("extract", run, *encoder, *how)

    for name in SLIDES:
        stem = Path(name).stem
        one, other = (open_tiles(run / "tiles" / f"{stem}.zarr") for run in (here, there))
        assert len(one) > 10
        assert np.array_equal(one.tiles[:], other.tiles[:])
        assert np.array_equal(one.coords, other.coords)
        assert dict(one.attributes) == dict(other.attributes)
        paths = [next((run / "features").glob(f"*/{stem}.h5")) for run in (here, there)]
        with h5py.File(paths[0]) as left, h5py.File(paths[1]) as right:
            assert np.array_equal(left["features"][:], right["features"][:])
            assert np.array_equal(left["coords"][:], right["coords"][:])

    again = verb("tile", slides, "--run", there, "--mpp-override", 0.5)
    assert re.search(r"skipped: done earlier +│ +2", again)
