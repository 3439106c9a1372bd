"""Write a run's report, one self-contained HTML page.

python -m wsi_pipeline.report runs/liver
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.report import ReportConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("report", ReportConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
