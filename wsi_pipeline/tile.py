"""Find tissue, normalise stains, cut tiles.

python -m wsi_pipeline.tile manifests/liver.csv --slides slides/ --run runs/liver
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.pipeline.tile_config import TileConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("tile", TileConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
