"""Find the cores of a tissue microarray, join them with its core map, draw them.

python -m wsi_pipeline.cores slides/tma.svs --map manifests/map.csv --preview cores/tma.jpg
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.cores import CoresConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("cores", CoresConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
