"""``python -m wsi_pipeline.finetune``, the same as ``wsi finetune``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("finetune")

if __name__ == "__main__":
    leave(main())
