"""``python -m wsi_pipeline.doctor``, the same as ``wsi doctor``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("doctor")

if __name__ == "__main__":
    sys.exit(main())
