"""``python -m wsi_pipeline.train``, the same as ``wsi train``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("train")

if __name__ == "__main__":
    sys.exit(main())
