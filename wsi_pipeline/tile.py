"""``python -m wsi_pipeline.tile``, the same as ``wsi tile``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("tile")

if __name__ == "__main__":
    leave(main())
