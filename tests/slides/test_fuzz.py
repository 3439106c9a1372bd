"""Damaged and hostile TIFFs end in one of our errors: no crash, no hang, no flood of memory.

A small seeded sample runs with the tests. The long run, with its figures on the screen:

    WSI_FUZZ_INPUTS=2000 python -m pytest tests/slides/test_fuzz.py -s
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from slides_fuzz.mutate import mutate
from slides_fuzz.seeds import write_seeds
from slides_vendor.mirax import write_mirax

INPUTS = int(os.environ.get("WSI_FUZZ_INPUTS", "150"))
FIRST_SEED = int(os.environ.get("WSI_FUZZ_SEED", "0"))
HANG_S = 10.0
MEMORY_MB = 1024.0
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one file: ``used``, one of our errors' names, or what must not happen."""

    fate: str
    seconds: float
    peak_mb: float
    wall_s: float = 0.0

    @property
    def bad(self) -> bool:
        return (
            not (self.fate == "used" or self.fate.endswith("Error"))
            or self.seconds > HANG_S
            or self.peak_mb > MEMORY_MB
        )


class Child:
    """A process that uses files, one at a time; started anew when a file was its end."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slides_fuzz.child"], cwd=TESTS.parent, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def use(self, path: Path) -> Fate:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        begun = time.monotonic()
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            answered = waiting.select(6 * HANG_S)
        line = self.process.stdout.readline() if answered else ""
        if line:
            return Fate(**json.loads(line), wall_s=time.monotonic() - begun)
        fate = "crash" if answered else "hang"
        self.__exit__(None, None, None)
        self.__enter__()
        return Fate(fate=fate, seconds=0, peak_mb=0)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child() as started:
        yield started


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_seeds(tmp_path_factory.mktemp("seeds"))


def test_healthy_files_are_used_and_a_bomb_is_not(child: Child, seeds: list[Path]) -> None:
    fates = {seed.name: child.use(seed) for seed in seeds}
    assert not {name: fate for name, fate in fates.items() if fate.bad}
    used = {name for name, fate in fates.items() if fate.fate == "used"}
    assert used | {"bomb.tif"} == {seed.name for seed in seeds}


@pytest.mark.timeout(3600)
def test_damaged_files_cost_an_error_of_ours_at_most(
    child: Child, seeds: list[Path], tmp_path: Path
) -> None:
    contents = [(seed.name, seed.read_bytes()) for seed in seeds]

    def damaged() -> Iterator[Path]:
        for number in range(FIRST_SEED, FIRST_SEED + INPUTS):
            name, content = contents[number % len(contents)]
            path = tmp_path / f"{number}-{name}"
            path.write_bytes(mutate(content, number))
            yield path
            path.unlink()

    judge(child, damaged())


@pytest.mark.timeout(3600)
def test_damaged_mirax_slides(child: Child, tmp_path: Path) -> None:
    """Each of a slide's three files in turn: the INI, the index, the pictures."""
    write_mirax(tmp_path / "whole.mrxs")
    files = sorted((tmp_path / "whole").iterdir())

    def damaged() -> Iterator[Path]:
        for number in range(FIRST_SEED, FIRST_SEED + INPUTS // 5):
            path = tmp_path / f"{number}.mrxs"
            path.write_bytes((tmp_path / "whole.mrxs").read_bytes())
            shutil.copytree(tmp_path / "whole", path.with_suffix(""))
            hurt = path.with_suffix("") / files[number % len(files)].name
            hurt.write_bytes(mutate(hurt.read_bytes(), number))
            yield path
            shutil.rmtree(path.with_suffix(""))
            path.unlink()

    judge(child, damaged())


@pytest.mark.timeout(3600)
def test_damaged_dicom_headers(child: Child, data_dir: Path, tmp_path: Path) -> None:
    whole = sorted((data_dir / "slides" / "broken").glob("*.dcm"))
    assert len(whole) == 3

    def damaged() -> Iterator[Path]:
        for number in range(FIRST_SEED, FIRST_SEED + INPUTS // 5):
            source = whole[number % len(whole)]
            path = tmp_path / f"{number}-{source.name}"
            path.write_bytes(mutate(source.read_bytes(), number))
            yield path
            path.unlink()

    judge(child, damaged())


def judge(child: Child, paths: Iterator[Path]) -> None:
    """Use each file; say what became of them, and fail for what must not happen."""
    fates: Counter[str] = Counter()
    bad: dict[str, Fate] = {}
    used = []
    for path in paths:
        fate = child.use(path)
        fates[fate.fate.split()[0]] += 1
        used.append(fate)
        if fate.bad:
            bad[path.name] = fate
            print(path.name, fate)
    print(
        f"\n{len(used)} inputs: {dict(fates)}, slowest {max(f.seconds for f in used):.1f} s of "
        f"processor and {max(f.wall_s for f in used):.1f} s by the clock, "
        f"most {max(f.peak_mb for f in used):.0f} MB"
    )
    assert not bad, "\n".join(f"{name}: {fate}" for name, fate in bad.items())
