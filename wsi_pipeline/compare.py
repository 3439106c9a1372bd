"""``python -m wsi_pipeline.compare``, the same as ``wsi compare``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("compare")

if __name__ == "__main__":
    sys.exit(main())
