"""``python -m wsi_pipeline.extract``, the same as ``wsi extract``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("extract")

if __name__ == "__main__":
    sys.exit(main())
