"""``python -m wsi_pipeline.finetune``, the same as ``wsi finetune``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("finetune")

if __name__ == "__main__":
    sys.exit(main())
