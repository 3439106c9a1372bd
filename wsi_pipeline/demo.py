"""Generate the synthetic cohort and take it through the whole pipeline.

python -m wsi_pipeline.demo
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.demo import DemoConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("demo", DemoConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
