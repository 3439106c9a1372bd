"""``python -m wsi_pipeline.download``, the same as ``wsi download``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("download")

if __name__ == "__main__":
    sys.exit(main())
