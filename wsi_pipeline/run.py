"""``python -m wsi_pipeline.run``, the same as ``wsi run``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("run")

if __name__ == "__main__":
    sys.exit(main())
