"""Work that a worker process can import: it succeeds, raises or dies as its payload says."""

import os
import signal
import time
from pathlib import Path
from uuid import uuid4

from distributed import get_worker

from wsi_pipeline.engine import kept
from wsi_pipeline.errors import ConfigError, SlideOpenError
from wsi_pipeline.events import SlideDone, SlideSkipped


@kept
def token(_: str) -> str:
    """As a model is: made once a process, for the slides of one stage."""
    return uuid4().hex


def who(payload: tuple[str, str, str]) -> SlideDone:
    """Tell which process does a slide, and what it keeps meanwhile."""
    time.sleep(0.3)
    return SlideDone(slide_id=payload[0], counts={}, flags=(str(os.getpid()), token("")))


def act(payload: tuple[str, str, str]) -> SlideDone | SlideSkipped:
    slide_id, what, folder = payload
    with Path(folder, slide_id).open("a") as file:
        file.write("x")
    match what:
        case "raise":
            raise SlideOpenError(f"{slide_id}.svs: not a slide")
        case "misuse":
            raise ConfigError("there is no such thing")
        case "bug":
            raise ZeroDivisionError("nobody foresaw this")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once" if Path(folder, slide_id).stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "skip":
            return SlideSkipped(slide_id=slide_id, reason="no tissue")
        case "environment":
            environment = tuple(f"{name}={value}" for name, value in os.environ.items())
            return SlideDone(slide_id=slide_id, counts={}, flags=environment)
        case "where":
            time.sleep(0.4)
            return SlideDone(slide_id=slide_id, counts={}, flags=(str(get_worker().name),))
        case "slow":
            time.sleep(1)
    return SlideDone(slide_id=slide_id, counts={"tiles kept": 3})
