"""Fetch GDC slides by manifest, verified and resumable.

python -m wsi_pipeline.download manifests/gdc_tcga_liver.txt --out slides/
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.download import DownloadConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("download", DownloadConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
