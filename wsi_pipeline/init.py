"""``python -m wsi_pipeline.init``, the same as ``wsi init``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("init")

if __name__ == "__main__":
    leave(main())
