"""``python -m wsi_pipeline.audit``, the same as ``wsi audit``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("audit")

if __name__ == "__main__":
    sys.exit(main())
