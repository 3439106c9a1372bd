"""A process that does with each file named on its input what the tile stage would do.

It answers each line with JSON: what became of it, seconds of processor time, and the peak of
memory in MB. It may die of a file; the one that asked then knows which.
"""

import contextlib
import json
import logging
import os
import resource
import sys
import time
import traceback
from pathlib import Path

from wsi_pipeline.errors import MppError, WsiError
from wsi_pipeline.slides import open_slide, slide_digest
from wsi_pipeline.tiles import TileSettings, plan_grid, read_blocks
from wsi_pipeline.tiles.plan import survey_slide

MEMORY_BYTES = 6 << 30  # of address space: the machine's protection, not the judgement


def use(path: Path) -> str:
    """Open, plan, and read some of it; return ``used`` or the name of our error."""
    try:
        slide_digest(path)
        with open_slide(path) as slide:
            plan_grid(slide.info, None)
            try:
                plan = survey_slide(slide, TileSettings())
            except MppError:
                plan = survey_slide(slide, TileSettings(mpp_override=0.5))
            for _ in read_blocks(slide, plan.grid, plan.wanted[:200].nonzero()[0]):
                pass
            for level, (width, height) in enumerate(slide.info.level_dimensions[:8]):
                slide.read(level, width // 2, height // 2, 300, 300)
            for name in slide.info.associated[:8]:
                slide.associated_image(name)
    except WsiError as error:
        return type(error).__name__
    except Exception:
        return "BUG " + traceback.format_exc()
    return "used"


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff says aloud what it thinks of the files
    for line in sys.stdin:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the former peak
        before = time.process_time()  # others on the machine must not look like a hang
        fate = use(Path(line.rstrip("\n")))
        seconds = time.process_time() - before
        answers.write(json.dumps({"fate": fate, "seconds": seconds, "peak_mb": peak_mb()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
