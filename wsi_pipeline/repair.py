"""``python -m wsi_pipeline.repair``, the same as ``wsi repair``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("repair")

if __name__ == "__main__":
    sys.exit(main())
