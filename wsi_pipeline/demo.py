"""``python -m wsi_pipeline.demo``, the same as ``wsi demo``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("demo")

if __name__ == "__main__":
    sys.exit(main())
