"""Train the tile classifier and the slide aggregator, and validate them.

python -m wsi_pipeline.train runs/liver --encoder densenet121 --external tma
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.train import run
from wsi_pipeline.pipeline.train_config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("train", TrainConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
