"""``python -m wsi_pipeline.export``, the same as ``wsi export``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("export")

if __name__ == "__main__":
    sys.exit(main())
