"""``python -m wsi_pipeline.tile``, the same as ``wsi tile``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("tile")

if __name__ == "__main__":
    sys.exit(main())
