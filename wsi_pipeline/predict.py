"""``python -m wsi_pipeline.predict``, the same as ``wsi predict``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("predict")

if __name__ == "__main__":
    sys.exit(main())
