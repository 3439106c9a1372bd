"""The fault harness: every fault to every verb that writes, and the table of what came of it.

``python tests/faults/harness.py PAGE.md`` takes some ten minutes on two cores.
``--verbs train,report`` does a part; ``--every`` fills the disk at each single write.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from faults import situations, trials
from faults.scenes import VERBS, Workplace, built_slides, scenes
from faults.shim import build_shim
from faults.situations import Outcome
from faults.trials import Trial

WORKERS = 2
PLACES = {
    trials.KILL: 14,
    trials.TERM: 3,
    trials.CTRL_C: 3,
    trials.BROKEN: 4,
    trials.READ_ONLY: 3,
    trials.FORBIDDEN: 3,
}
"""How many places of a verb's work a fault is done at; a full disk at each sort of write."""
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


def play(root: Path, shim: Path, slides: Path, verb: str, *, every: bool) -> list[Trial]:
    """Do every fault to a verb."""
    with workplace(root / verb.replace(" ", "-"), shim, slides) as place:
        (scene,) = scenes(place, (verb,))
        found = []
        seed = VERBS.index(verb)
        for fault in (trials.FULL, *PLACES):
            if fault is trials.FULL:
                count = len(scene.writes)
                nths = range(1, count + 1) if every else trials.one_of_each(scene.writes, seed)
            else:
                nths = trials.spread(scene.operations, PLACES[fault], seed)
            found += [done for nth in nths if (done := trials.attempt(place, scene, fault, nth))]
        return found


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
    sums = f"{len(done)} faults (seed {trials.SEED}) in {seconds / 60:.0f} minutes"
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
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--every", action="store_true")
    asked = parser.parse_args(argv)
    began = time.monotonic()
    done: list[Trial] = []
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(WORKERS) as pool:
        root = Path(name)
        shim, slides = build_shim(root), built_slides(root / "built")
        verbs = asked.verbs.split(",")
        at_work = [pool.submit(play, root, shim, slides, verb, every=asked.every) for verb in verbs]
        beside = pool.submit(situations.all_of, root / "situations", shim, slides)
        for each in as_completed(at_work):
            found = each.result()
            done += found
            verb, bad = found[0].verb, [trial for trial in found if trial.wrong]
            sys.stdout.write(f"{verb}: {len(found)} faults, {len(bad)} not survived\n")
            for trial in bad:
                wrong = "\n    ".join(trial.wrong)
                sys.stdout.write(f"  {trial.fault} at {trial.where} ({trial.code}): {wrong}\n")
            sys.stdout.flush()
        outcomes = beside.result()
    for outcome in outcomes:
        sys.stdout.write(f"{outcome}\n")
    text = asked.page.read_text("utf-8") if asked.page.exists() else f"{BEGIN}{END}\n"
    head, _, rest = text.partition(BEGIN)
    words = told(done, outcomes, time.monotonic() - began)
    asked.page.write_text(f"{head}{words}{rest.partition(END)[2]}", "utf-8")
    return 1 if any(each.wrong for each in done) or not all(o.right for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
