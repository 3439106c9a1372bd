"""``python -m wsi_pipeline``: every verb through one door."""

import sys

from wsi_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
