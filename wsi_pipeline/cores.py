"""``python -m wsi_pipeline.cores``, the same as ``wsi cores``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("cores")

if __name__ == "__main__":
    sys.exit(main())
