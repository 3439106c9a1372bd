"""Workers that come and go, a scheduler that dies, and one GPU a worker."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client
from engine.work import act
from scale.runs import Study

from wsi_pipeline.engine import SlideTask, map_slides
from wsi_pipeline.errors import ClusterError, ConfigError
from wsi_pipeline.events import SlideDone
from wsi_pipeline.settings import StageConfig

CLAIM = (
    "import sys; from wsi_pipeline.features.devices import claim\n"
    "print(claim(['GPU-a', 'GPU-b']), flush=True); sys.stdin.read()"
)

pytestmark = pytest.mark.timeout(900)  # the first waits for the study that all share


class Cluster:
    """A scheduler and workers, each a process started by hand."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> "subprocess.Popen[bytes]":
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"]
        self.scheduler = self._start("scheduler", *where)
        return self.scheduler

    def worker(self, name: str, *more: str) -> "subprocess.Popen[bytes]":
        one = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--name", name, *more]
        return self._start("worker", self.address, *one)

    def wait(self, workers: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), Client(self.address, timeout=2) as client:
                client.wait_for_workers(workers, timeout=30)
                return
            time.sleep(0.2)
        pytest.fail("the cluster did not start")

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=20)

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path("tests").absolute()), str(Path().absolute())])
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words], cwd=self._folder, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


def tasks(folder: Path, count: int) -> list[SlideTask]:
    return [
        SlideTask(slide_id=f"s{k}", lock=None, payload=(f"s{k}", "where", str(folder)))
        for k in range(count)
    ]


def test_a_worker_that_is_killed_and_one_that_is_added(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.worker("first")
    cluster.worker("second")
    cluster.wait(2)
    fates: list[SlideDone] = []
    for event in map_slides(act, tasks(tmp_path, 40), StageConfig(scheduler=cluster.address)):
        if isinstance(event, SlideDone):
            fates.append(event)
            if len(fates) == 2:
                first.kill()
                cluster.worker("third")
    assert sorted(fate.slide_id for fate in fates) == sorted(f"s{k}" for k in range(40))
    where = Counter(fate.flags[0] for fate in fates)
    assert where["second"] > 2
    assert where["third"] > 2, "who comes later is given work"


def test_a_cluster_without_workers_ends_the_call(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute in life, after two seconds here."""
    monkeypatch.setattr("wsi_pipeline.engine.cluster.PATIENCE_S", 2.0)
    only = cluster.worker("only")
    cluster.wait(1)
    fates: list[SlideDone] = []
    killed: list[float] = []

    def work() -> None:
        for event in map_slides(act, tasks(tmp_path, 40), StageConfig(scheduler=cluster.address)):
            if isinstance(event, SlideDone):
                fates.append(event)
                if len(fates) == 2:
                    only.kill()
                    killed.append(time.monotonic())

    with pytest.raises(ClusterError) as told:
        work()
    assert 2 < time.monotonic() - killed[0] < 30
    assert str(told.value) == (
        f"{cluster.address}: it has had no workers for 2 s; what is finished is kept: start a "
        "scheduler and workers, and the same command goes on"
    )
    assert 2 <= len(fates) < 40
    with pytest.raises(ConfigError, match="it has no workers; start some"):
        list(map_slides(act, tasks(tmp_path, 1), StageConfig(scheduler=cluster.address)))


def test_what_needs_a_gpu_goes_to_workers_with_one(cluster: Cluster, tmp_path: Path) -> None:
    class UsesGpu(StageConfig):
        @property
        def uses_gpu(self) -> bool:
            return True

    cluster.worker("with", "--resources", "GPU=1")
    cluster.worker("without")
    cluster.wait(2)
    events = list(map_slides(act, tasks(tmp_path, 4), UsesGpu(scheduler=cluster.address)))
    fates = [event for event in events if isinstance(event, SlideDone)]
    assert [fate.flags[0] for fate in fates] == ["with"] * 4
    events = list(map_slides(act, tasks(tmp_path, 6), StageConfig(scheduler=cluster.address)))
    assert {event.flags[0] for event in events if isinstance(event, SlideDone)} == {
        "with",
        "without",
    }


def test_a_scheduler_that_dies_ends_the_call_and_the_next_goes_on(
    cluster: Cluster, study: Study, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "wsi_pipeline.tile", str(study.cohort), "--run", str(run),
        "--scheduler", cluster.address, "--tile-px", "64", "--max-background-fraction", "1",
    ]  # fmt: skip
    cluster.worker("first")
    cluster.wait(1)
    call = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("tiles/*.zarr")) and time.monotonic() < deadline:
        time.sleep(0.02)
    cluster.scheduler.kill()
    _, told = call.communicate(timeout=120)
    assert call.returncode == 1
    assert "the scheduler is gone, or was started anew; what is finished is kept" in told
    assert "Traceback" not in told
    done = len(list(run.glob("tiles/*.zarr")))
    assert 0 < done < 13
    cluster.start_scheduler()
    cluster.worker("second")
    cluster.wait(1)
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "done earlier" in again.stdout
    assert len(list(run.glob("tiles/*.zarr"))) == 13


def test_a_worker_has_a_gpu_to_itself_whatever_its_name(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    start = [sys.executable, "-c", CLAIM]
    workers = [subprocess.Popen(start, env=environment, **pipes) for _ in range(3)]
    said = [worker.stdout.readline().strip() for worker in workers if worker.stdout]
    assert sorted(said) == ["0", "1", "None"]
    ended = workers[said.index("1")]
    ended.kill()
    ended.wait()
    late = subprocess.run(start, env=environment, input="", capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert late.stdout.strip() == "1"
    for worker in workers:
        worker.kill()
        worker.wait()
