"""What every runner shares: its command line, its last line and the way to decline.

The peers' own pythons import it, so it needs the standard library alone and runs from 3.10.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

DOES_NOT = 3  # exit status


def tile_arguments() -> argparse.Namespace:
    """The command line of a runner that tiles: SLIDE OUT and what is wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--stain", action="store_true", help="Macenko-normalise each tile")
    parser.add_argument("--workers", type=int, default=1, help="processes, where the peer has them")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def stain_arguments() -> argparse.Namespace:
    """The command line of a runner that normalises: TILES.npy and how often."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tiles", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    return parser.parse_args()


def extract_arguments() -> argparse.Namespace:
    """The command line of a runner that extracts: SLIDE OUT and the encoder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--encoder", default="resnet50", help="a model of timm, random weights")
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def report(tiles: int, **seconds: float) -> None:
    """Print the line of JSON that ends a run."""
    print(json.dumps({"tiles": tiles, **seconds}))


def decline(what: str) -> NoReturn:
    """End the run, saying in one line what the peer does not do."""
    print(f"does not: {what}")
    sys.exit(DOES_NOT)
