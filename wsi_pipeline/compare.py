"""Compare encoders on the same patients, against a required accuracy.

python -m wsi_pipeline.compare stages/compare.toml
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.compare import CompareConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("compare", CompareConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
