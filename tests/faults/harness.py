"""The fault harness: every fault to every verb that writes, and the table of what came of it.

``python tests/faults/harness.py PAGE.md`` takes some ten minutes on two cores.
``--parts train,report`` does a part; ``--every`` fills the disk at each single write instead.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults import situations, trials
from faults.scenes import VERBS, Workplace, built_slides, scenes
from faults.shim import build_shim
from faults.situations import Outcome
from faults.trials import Trial

PLACES = {
    trials.KILL: 13,
    trials.TERM: 2,
    trials.CTRL_C: 2,
    trials.BROKEN: 3,
    trials.READ_ONLY: 2,
    trials.FORBIDDEN: 2,
}
"""How many places of a verb's work a fault is done at; a full disk at each sort of write."""
SITUATIONS = "situations"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


def play(
    root: Path, shim: Path, slides: Path, part: str, *, every: bool
) -> tuple[list[Trial] | list[Outcome], float]:
    """Do every fault to a verb, or all situations; return what came of it and how long it took."""
    began = time.monotonic()
    with workplace(root / part.replace(" ", "-"), shim, slides) as place:
        if part == SITUATIONS:
            outcomes = [each for situation in situations.ALL for each in situation(place)]
            return outcomes, time.monotonic() - began
        verb = part
        (scene,) = scenes(place, (verb,))
        found = []
        seed = VERBS.index(verb)
        for fault in (trials.FULL,) if every else (trials.FULL, *PLACES):
            if fault is trials.FULL:
                count = len(scene.writes)
                nths = range(1, count + 1) if every else trials.one_of_each(scene.writes, seed)
            else:
                nths = trials.spread(scene.operations, fault.ops, PLACES[fault], seed)
            found += [done for nth in nths if (done := trials.attempt(place, scene, fault, nth))]
        return found, time.monotonic() - began


@contextlib.contextmanager
def workplace(root: Path, shim: Path, slides: Path) -> Iterator[Workplace]:
    """Yield a workplace of one's own."""
    place = Workplace(root, shim, slides)
    try:
        yield place
    finally:
        place.close()


def table(done: Sequence[Trial]) -> str:
    """Return right of tried, by verb and fault, in Markdown."""
    faults = [fault.name for fault in (trials.FULL, *PLACES)]
    tried = Counter((each.verb, each.fault) for each in done)
    right = Counter((each.verb, each.fault) for each in done if not each.wrong)
    rows = ["| | " + " | ".join(faults) + " |", "|---" * (len(faults) + 1) + "|"]
    for verb in VERBS:
        if any(each.verb == verb for each in done):
            cells = [f"{right[verb, fault]}/{tried[verb, fault]}" for fault in faults]
            rows.append(f"| {verb} | " + " | ".join(cells) + " |")
    sums = [
        f"{sum(right[verb, fault] for verb in VERBS)}/{sum(tried[verb, fault] for verb in VERBS)}"
        for fault in faults
    ]
    return "\n".join([*rows, "| all | " + " | ".join(sums) + " |"])


def told(done: Sequence[Trial], outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return what is written into the page."""
    wrong = sum(bool(each.wrong) for each in done)
    sums = f"{len(done)} faults (seed {trials.SEED}) in {seconds / 60:.0f} minutes of one process"
    lines = [
        BEGIN,
        f"{sums}, {wrong} of them not survived; right of tried:\n",
        table(done),
        "\n| What else was done | To | What came of it | As it should |",
        "|---|---|---|---|",
        *(
            f"| {o.fault} | {o.to} | {o.came} | {'yes' if o.right else '**no**'} |"
            for o in outcomes
        ),
        "\n" + END,
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--parts", default=",".join((SITUATIONS, *VERBS)))
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="kept from call to call: a part is done once")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(asked.processes) as pool:
        root = Path(name)
        results = Results(asked.results or root / "results.jsonl")
        shim, slides = build_shim(root), built_slides(root / "built")
        at_work = {
            pool.submit(play, root, shim, slides, part, every=asked.every): part
            for part in asked.parts.split(",")
            if part not in results.parts
        }
        for each in as_completed(at_work):
            part, found = at_work[each], each.result()
            results.add(part, *found)
            sys.stdout.write(f"{part}: {len(found[0])} in {found[1]:.0f} s\n")
            for done in found[0]:
                if isinstance(done, Trial) and done.wrong:
                    wrong = "\n    ".join(done.wrong)
                    sys.stdout.write(f"  {done.fault} at {done.where} ({done.code}): {wrong}\n")
                elif isinstance(done, Outcome):
                    sys.stdout.write(f"  {done}\n")
            sys.stdout.flush()
        text = asked.page.read_text("utf-8") if asked.page.exists() else f"{BEGIN}{END}\n"
    head, _, rest = text.partition(BEGIN)
    words = told(results.trials, results.outcomes, results.seconds)
    asked.page.write_text(f"{head}{words}{rest.partition(END)[2]}", "utf-8")
    return (
        1
        if any(t.wrong for t in results.trials) or any(not o.right for o in results.outcomes)
        else 0
    )


class Results:
    """What was done so far, a line of JSON each part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.parts: list[str] = []
        self.trials: list[Trial] = []
        self.outcomes: list[Outcome] = []
        self.seconds = 0.0
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            self._take(json.loads(line))

    def add(self, part: str, found: Sequence[Trial | Outcome], seconds: float) -> None:
        """Keep a part."""
        told = {"part": part, "seconds": seconds, "found": list(map(asdict, found))}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
        self._take(told)

    def _take(self, told: dict[str, Any]) -> None:
        self.parts.append(told["part"])
        self.seconds += told["seconds"]
        if told["part"] == SITUATIONS:
            self.outcomes += [Outcome(**each) for each in told["found"]]
        else:
            found = [{**each, "wrong": tuple(each["wrong"])} for each in told["found"]]
            self.trials += [Trial(**each) for each in found]


if __name__ == "__main__":
    sys.exit(main())
