"""Write features in the layouts of CLAM, TRIDENT and STAMP.

python -m wsi_pipeline.export runs/liver --layout clam --encoder densenet121
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.export import ExportConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("export", ExportConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
