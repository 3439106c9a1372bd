"""Look for leaks and nuisances before training; status 1 where something must be put right.

python -m wsi_pipeline.audit runs/liver --encoder densenet121 --external tma
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.audit import AuditConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("audit", AuditConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
