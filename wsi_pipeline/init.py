"""``python -m wsi_pipeline.init``, the same as ``wsi init``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("init")

if __name__ == "__main__":
    sys.exit(main())
