"""``python -m wsi_pipeline.qc``, the same as ``wsi qc``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("qc")

if __name__ == "__main__":
    sys.exit(main())
