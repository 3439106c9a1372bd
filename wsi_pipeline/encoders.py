"""``python -m wsi_pipeline.encoders``, the same as ``wsi encoders``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("encoders")

if __name__ == "__main__":
    sys.exit(main())
