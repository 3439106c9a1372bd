"""Look at what was flagged, and decide what the next stage leaves out.

python -m wsi_pipeline.qc runs/liver
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.qc import QcConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("qc", QcConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
