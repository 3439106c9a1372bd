"""How long a command takes to start: every verb's ``--help``, and one small slide that is cut.

``--before CHECKOUT`` names another state of the project to hold it against. Python's compiled
modules are kept, as an installer leaves them; one round before the first that counts makes them.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.measure import arguments, machine
from wsi_pipeline.verbs import VERBS

HERE: Final = Path(__file__).parents[1]
SLIDE: Final = HERE.parent / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


@dataclass(frozen=True)
class Start:
    """One start of a process: seconds by the clock, and of a processor."""

    wall: float
    cpu: float


def start(checkout: Path, words: Sequence[str], cache: Path) -> Start:
    """Run a command of a checkout to its end.

    Raises:
        CalledProcessError: It failed.
    """
    environment = {name: value for name, value in os.environ.items() if "BYTECODE" not in name}
    environment |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(cache)}
    command = [sys.executable, "-m", "wsi_pipeline", *words]
    begun = perf_counter()
    # with -m Python looks in the folder it is started in before all else
    process = subprocess.Popen(command, env=environment, cwd=checkout, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Start(wall, used.ru_utime + used.ru_stime)


def measure(
    checkouts: Mapping[str, Path], slide: Path, rounds: int, folder: Path
) -> dict[str, dict[str, list[Start]]]:
    """Return each command's starts by checkout, in interleaved rounds."""
    run = folder / "run"
    commands = {"(none) --help": ["--help"]}
    commands |= {f"{verb} --help": [verb, "--help"] for verb in VERBS}
    commands["tile, one small slide"] = ["tile", str(slide), "--run", str(run)]
    found: dict[str, dict[str, list[Start]]] = {
        name: {label: [] for label in checkouts} for name in commands
    }
    for number in range(-1, rounds):
        for name, words in commands.items():
            for label, checkout in checkouts.items():
                shutil.rmtree(run, ignore_errors=True)
                one = start(checkout, words, folder / f"cache-{label}")
                if number >= 0:
                    found[name][label].append(one)
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def to_markdown(found: Mapping[str, Mapping[str, Sequence[Start]]], rounds: int) -> str:
    """Return the table: seconds by the clock, and of a processor."""
    labels = list(next(iter(found.values())))
    heads = [f"{label}, {what}" for label in labels for what in ("s", "least to most", "CPU s")]
    lines = [
        "### Starts",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for name, starts in found.items():
        cells = [cell for label in labels for cell in _cells(starts[label])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Medians of {rounds} interleaved rounds, {machine()}.", ""])


def _cells(starts: Sequence[Start]) -> list[str]:
    walls = [each.wall for each in starts]
    return [
        f"{statistics.median(walls):.2f}",
        f"{min(walls):.2f} to {max(walls):.2f}",
        f"{statistics.median(each.cpu for each in starts):.2f}",
    ]


def main() -> None:
    """Measure, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--before", type=Path, help="checkout to hold this one against")
    parser.add_argument("--slide", type=Path, default=SLIDE)
    asked = parser.parse_args()
    checkouts = {} if asked.before is None else {"before": asked.before.absolute()}
    with tempfile.TemporaryDirectory() as name:
        found = measure(checkouts | {"now": HERE}, asked.slide.absolute(), asked.rounds, Path(name))
    text = to_markdown(found, asked.rounds)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "starts.md").write_text(text, "utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
