"""What the faults are done to: every verb that writes, on a run folder small enough for seconds.

A scene is a run folder as the verb finds it, the command line, and the run folder as an
undisturbed call leaves it. Each workplace has its own, as paths stand in what is written.
"""

import contextlib
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import h5py
import numpy as np
from faults.corruption import do
from faults.forks import Forks
from faults.shim import CHANGES, TAKES_SPACE, What
from scale.object_store import serve

SLIDES = ("SYN-0001-1", "SYN-0002-1", "SYN-0003-1", "SYN-0006-1", "SYN-0008-1", "SYN-0009-1")
VERBS = (
    "download", "cores", "tile", "tile hdf5", "qc", "extract", "export", "import_features", "audit",
    "train", "finetune", "compare", "predict", "report", "repair", "run", "tile anew", "embed",
    "init", "demo", "tile in a bucket",
)  # fmt: skip
UNLIKE = ("logs", ".locks", "inventory.jsonl")  # told by time and by process; verify reads the last
BUCKET = "faults"
SERVER = Path(__file__).parents[1] / "gdc_server" / "server.py"
ENCODER = ("--encoder", "test_resnet")
CPU = ("--device", "cpu")
TINY = (*CPU, "--epochs", "1", "--resamples", "100", "--accept-risk", "tiny")


@dataclass(frozen=True)
class Scene:
    """One verb at work.

    Attributes:
        name: The verb, and in which of its ways.
        start: The run folder before; None if there is none.
        command: What is called.
        code: Its exit status when nothing disturbs it.
        wanted: Each file it leaves, with a digest of what it says.
        operations: The changes to files that it makes, in order.
        writes: Those of them that take space, as a full disk lets them come.
    """

    name: str
    start: Path | None
    command: tuple[str, ...]
    code: int = 0
    wanted: dict[str, str] = field(default_factory=dict)
    operations: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


class Workplace:
    """Slides, run folders at several stages, and a process to fork from."""

    def __init__(self, root: Path, shim: Path, slides: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.states = root / "states"
        self.slides = slides
        self.states.mkdir(parents=True)
        self.forks = Forks(shim, root / "forks")
        self.server: subprocess.Popen[str] | None = None
        self.remote: str | None = None  # where the run is kept, if that is a bucket
        self._open = contextlib.ExitStack()
        self._files()

    def _files(self) -> None:
        lines = (self.slides / "cohort.csv").read_text().splitlines(keepends=True)
        chosen = [line for line in lines[1:] if line.partition(",")[0] in SLIDES]
        (self.root / "six.csv").write_text("".join([lines[0], *chosen]))
        (self.root / "two.csv").write_text("".join([lines[0], *chosen[:2]]))
        (self.root / "compare.toml").write_text(
            f'[compare]\nrun = "{self.run}"\nencoders = ["test_resnet"]\n[train]\nepochs = 1\n'
            'resamples = 100\ndevice = "cpu"\naccept_risk = "tiny"\n'
        )
        (self.root / "study.toml").write_text(
            f'[study]\nrun = "{self.run}"\nslides = "{self.slides}"\ndevice = "cpu"\n'
            f'[tile]\ncohort = "{self.root}/two.csv"\ntile_px = 64\nmax_background_fraction = 1\n'
            '[extract]\nencoder = "test_resnet"\nweights = "random"\n[report]\n'
        )
        picture = np.full((300, 440, 3), 243, np.uint8)
        for place in range(6):
            centre = (80 + 140 * (place % 3), 80 + 140 * (place // 3))
            cv2.circle(picture, centre, 45, (170, 110, 190), -1)
        noise = np.random.default_rng(2).integers(-8, 8, picture.shape)
        cv2.imwrite(str(self.root / "tma.png"), np.clip(picture + noise, 0, 255).astype(np.uint8))

    def tile(self, table: str, *more: str) -> tuple[str, ...]:
        """Return the command that cuts a table's slides."""
        return (
            "tile", f"{self.root}/{table}.csv", "--slides", str(self.slides), "--run",
            str(self.run), "--tile-px", "64", "--max-background-fraction", "1", *more,
        )  # fmt: skip

    @property
    def extract(self) -> tuple[str, ...]:
        return ("extract", str(self.run), *ENCODER, "--weights", "random", *CPU)

    @property
    def train(self) -> tuple[str, ...]:
        return ("train", str(self.run), *ENCODER, *TINY)

    def state(self, name: str, *commands: tuple[str, ...], after: str | None = None) -> Path:
        """Keep the run folder as some commands leave it, as a state."""
        self.begin(after and self.states / after)
        for command in commands:
            ended = self.forks.run(command)
            if ended.code:
                raise SystemExit(f"{' '.join(command)}: {ended.code}\n{ended.said}")
        shutil.copytree(self.run, self.states / name)
        return self.states / name

    def begin(self, state: Path | None) -> None:
        """Put the run folder back to a state."""
        shutil.rmtree(self.run, ignore_errors=True)
        if state is not None:
            shutil.copytree(state, self.run)
        if self.remote is not None:
            for key in self._objects():
                self.s3.delete_object(Bucket=BUCKET, Key=key)

    def found(self) -> dict[str, str]:
        """Return each file of the run, here or in the bucket, with a digest of what it says."""
        if self.remote is not None:
            named = ((key, self.s3.get_object(Bucket=BUCKET, Key=key)) for key in self._objects())
            return {key: digest_of(key, found["Body"].read()) for key, found in named}
        return {name: digest_of(name, (self.run / name).read_bytes()) for name in names(self.run)}

    def rent_bucket(self) -> str:
        """Have the run in a bucket of a server beside us, and a fork server that knows it."""
        import boto3

        self._open.enter_context(serve())
        self.forks.__exit__(None, None, None)
        self.forks = Forks(self.forks.shim, self.root / "forks")
        self.s3 = boto3.client("s3")
        self.s3.create_bucket(Bucket=BUCKET)
        self.remote = f"s3://{BUCKET}/run"
        return self.remote

    def _objects(self) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return [key for key in keys if not {*UNLIKE} & {*Path(key).parts}]

    def close(self) -> None:
        self.forks.__exit__(None, None, None)
        self._open.close()
        if self.server is not None:
            self.server.kill()
            self.server.wait()


CLOCK = {
    "verified.tsv": rb"\d{16,}",  # when each file was last changed
    "download_report.csv": rb"(?s).*",  # what was fetched, and what was there
    "look.png": rb"(?s).*",  # drawn as found, or as it stands
    "speed.json": rb"\d+(\.\d+)?(e-?\d+)?",
    ".ome.tif": rb"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}:\d\d:\d\d \d\d:\d\d:\d\d",
    ".json": rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(\+00:00|Z)?",
    ".jsonl": rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(\+00:00|Z)?",
}
"""What two equal calls write differently, by how the file's name ends: times, and random names."""


def names(run: Path) -> list[str]:
    """Return the files of a run folder that two equal calls leave alike."""
    paths = (path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file())
    return [path.as_posix() for path in paths if not {*UNLIKE} & {*path.parts}]


def digest_of(name: str, data: bytes) -> str:
    """Return a digest of what a file says, but for times and what was measured by the clock."""
    for ending, clock in CLOCK.items():
        if name.endswith(ending):
            data = re.sub(clock, b"", data)
    if name.endswith((".tsv", ".csv")):  # files come in any order
        data = b"".join(sorted(data.splitlines(keepends=True)))
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def scenes(place: Workplace, only: tuple[str, ...] = ()) -> list[Scene]:
    """Return every verb's scene, with what an undisturbed call does and leaves."""
    makers: dict[str, Callable[[], Scene]] = {
        "download": lambda: Scene("download", None, _download(place)),
        "cores": lambda: Scene("cores", None, _cores(place)),
        "tile": lambda: Scene("tile", None, place.tile("two")),
        "tile hdf5": lambda: Scene("tile hdf5", None, place.tile("two", "--store", "hdf5")),
        "qc": lambda: Scene("qc", _two(place), ("qc", str(place.run), "--max-tiles", "6")),
        "extract": lambda: Scene("extract", _two(place), place.extract),
        "export": lambda: Scene(
            "export", _encoded(place), ("export", str(place.run), *ENCODER, "--layout", "clam")
        ),
        "import_features": lambda: Scene("import_features", None, _import(place)),
        "audit": lambda: Scene("audit", _six(place), ("audit", str(place.run), *ENCODER)),
        "train": lambda: Scene("train", _six(place), place.train),
        "finetune": lambda: Scene("finetune", _six(place), _finetune(place)),
        "compare": lambda: Scene("compare", _six(place), ("compare", f"{place.root}/compare.toml")),
        "predict": lambda: Scene("predict", _trained(place), ("predict", str(place.run), *CPU)),
        "report": lambda: Scene("report", _trained(place), ("report", str(place.run))),
        "repair": lambda: Scene("repair", _damaged(place), _repair(place)),
        "run": lambda: Scene("run", None, ("run", f"{place.root}/study.toml")),
        "tile anew": lambda: Scene(
            "tile anew", _two(place), place.tile("two", "--overwrite", "--stain", "none")
        ),
        "embed": lambda: Scene("embed", _encoded(place), ("embed", str(place.run), *ENCODER, *CPU)),
        "init": lambda: Scene("init", None, ("init", "liver", "--folder", str(place.run))),
        "demo": lambda: Scene("demo", None, _demo(place)),
        "tile in a bucket": lambda: Scene("tile in a bucket", None, _in_bucket(place)),
    }
    chosen = [make() for name, make in makers.items() if not only or name in only]
    return [rehearsed(place, scene) for scene in chosen]


def rehearsed(place: Workplace, scene: Scene) -> Scene:
    """Do a scene undisturbed, twice: what it leaves has to be the same."""
    trees, logs, code = [], [], 0
    for ops in (CHANGES, TAKES_SPACE):
        log = place.root / "operations.log"
        log.unlink(missing_ok=True)
        place.begin(scene.start)
        place.forks.faults.arm(
            place.run, ops, what=What.FAIL if ops != CHANGES else What.COUNT, log=log
        )
        ended = place.forks.run(scene.command)
        place.forks.faults.disarm()
        code = ended.code
        if code not in (0, 1) or "Traceback" in ended.said:
            raise SystemExit(f"{scene.name}: exit status {ended.code}\n{ended.said}")
        trees.append(place.found())
        logs.append(tuple(log.read_text("utf-8", "replace").splitlines()))
    unlike = {name for name in trees[0] | trees[1] if trees[0].get(name) != trees[1].get(name)}
    if unlike:
        raise SystemExit(f"{scene.name}: two undisturbed calls differ in {sorted(unlike)}")
    return replace(scene, code=code, wanted=trees[0], operations=logs[0], writes=logs[1])


def _kept(place: Workplace, name: str, make: Callable[[], Path]) -> Path:
    state = place.states / name
    return state if state.is_dir() else make()


def _two(place: Workplace) -> Path:
    return _kept(place, "two", lambda: place.state("two", place.tile("two")))


def _encoded(place: Workplace) -> Path:
    _two(place)
    return _kept(place, "encoded", lambda: place.state("encoded", place.extract, after="two"))


def _six(place: Workplace) -> Path:
    return _kept(place, "six", lambda: place.state("six", place.tile("six"), place.extract))


def _trained(place: Workplace) -> Path:
    _six(place)
    return _kept(place, "trained", lambda: place.state("trained", place.train, after="six"))


def _damaged(place: Workplace) -> Path:
    """A run with a feature store cut short, a tile store without a shard, and a thumbnail lost."""
    _encoded(place)

    def damage() -> Path:
        state = place.state("damaged", after="encoded")
        store = min(state.glob("features/*/*.h5"))
        store.write_bytes(store.read_bytes()[:-100])
        max(state.glob("tiles/*.zarr/tiles/c/*/*/*/*")).unlink()
        min(state.glob("thumbnails/*")).unlink()
        return state

    return _kept(place, "damaged", damage)


def _repair(place: Workplace) -> tuple[str, ...]:
    return ("repair", str(place.run), "--slides", str(place.slides), *CPU)


def _finetune(place: Workplace) -> tuple[str, ...]:
    return (
        "finetune", str(place.run), *ENCODER, "--weights", "random", *TINY, "--batch", "4",
        "--tiles-per-epoch", "8", "--judged-tiles", "2", "--scored-tiles", "2", "--input-px", "64",
    )  # fmt: skip


def _demo(place: Workplace) -> tuple[str, ...]:
    """Draw the slides; what comes after is the run that has a scene of its own."""
    return (
        "demo", str(place.run), "--cohort-only", "--patients-per-label", "2", "--side-px", "1024",
        "--tma-rows", "0",
    )  # fmt: skip


def _in_bucket(place: Workplace) -> tuple[str, ...]:
    """Cut in scratch, where the faults are; what is finished goes to the bucket."""
    command = list(place.tile("two", "--scratch", str(place.run)))
    command[command.index("--run") + 1] = place.rent_bucket()
    return tuple(command)


def _cores(place: Workplace) -> tuple[str, ...]:
    out = place.run / "cores"
    return (
        "cores", f"{place.root}/tma.png", "--preview", f"{out}/look.png", "--out",
        f"{out}/tma.csv", "--mpp-override", "8", "--lies", "as-scanned",
    )  # fmt: skip


def _import(place: Workplace) -> tuple[str, ...]:
    """Take over what CLAM wrote; the folder lies beside the run."""
    source = place.root / "clam"
    if not source.is_dir():
        (source / "h5_files").mkdir(parents=True)
        for number, slide in enumerate(SLIDES[:2]):
            with h5py.File(source / "h5_files" / f"{slide}.h5", "w") as file:
                rng = np.random.default_rng(number)
                file["features"] = rng.normal(size=(12, 64)).astype(np.float32)
                file["coords"] = np.stack([np.arange(12) * 64, np.full(12, 64)], 1).astype(np.int32)
    return (
        "import_features", str(source), "--run", str(place.run), "--cohort",
        f"{place.root}/two.csv", "--slides", str(place.slides), *ENCODER, "--tile-px", "64",
        "--mpp", "0.5",
    )  # fmt: skip


def _download(place: Workplace) -> tuple[str, ...]:
    """Fetch three files of a server beside us."""
    server = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    place.server = server
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"
    files, rows = [], ["id\tfilename\tmd5\tsize\tstate"]
    for number in range(3):
        data = random.Random(number).randbytes(400_000 + number)
        path = place.root / f"content-{number}"
        path.write_bytes(data)
        name, md5 = f"slide-{number}.svs", hashlib.md5(data).hexdigest()
        name_id = str(uuid.UUID(int=0x1000 + number, version=4))
        files.append({
            "file_id": name_id, "file_name": name, "md5sum": md5, "file_size": len(data),
            "state": "released", "access": "open", "_content": str(path),
        })  # fmt: skip
        rows.append(f"{name_id}\t{name}\t{md5}\t{len(data)}\treleased")
    told = {
        "files": files,
        "versions": [],
        "faults": [],
        "pace": None,
        "tokens": [],
        "at_most": None,
    }
    request = urllib.request.Request(
        f"{url}/_set", json.dumps(told).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).read()
    manifest = place.root / "manifest.txt"
    manifest.write_text("\n".join(rows) + "\n")
    return (
        "download", str(manifest), f"--out={place.run}", f"--server={url}",
        "--segment-mib=0.25", "--connections=2", "--first-wait-s=0.01",
    )  # fmt: skip


def built_slides(folder: Path) -> Path:
    """Make the slides of the demo's cohort."""
    do("demo", folder=folder, cohort_only=True, patients_per_label=3, side_px=1024, tma_rows=0)
    return folder / "slides"
