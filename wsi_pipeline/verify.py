"""Check everything a run folder holds.

python -m wsi_pipeline.verify runs/liver
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.verify import VerifyConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("verify", VerifyConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
