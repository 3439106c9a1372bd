"""``python -m wsi_pipeline.report``, the same as ``wsi report``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("report")

if __name__ == "__main__":
    sys.exit(main())
