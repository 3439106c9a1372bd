"""``python -m wsi_pipeline.verify``, the same as ``wsi verify``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("verify")

if __name__ == "__main__":
    sys.exit(main())
