"""``python -m wsi_pipeline.view``, the same as ``wsi view``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("view")

if __name__ == "__main__":
    sys.exit(main())
