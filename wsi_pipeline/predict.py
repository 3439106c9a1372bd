"""Score slides with a trained model; draw heatmaps.

python -m wsi_pipeline.predict runs/liver --model runs/liver/models/NAME
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.predict import PredictConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("predict", PredictConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
