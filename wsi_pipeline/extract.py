"""Turn tiles into features.

python -m wsi_pipeline.extract runs/liver --encoder densenet121
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.extract import run
from wsi_pipeline.pipeline.extract_config import ExtractConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("extract", ExtractConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
