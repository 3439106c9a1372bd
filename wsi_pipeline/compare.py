"""``python -m wsi_pipeline.compare``, the same as ``wsi compare``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("compare")

if __name__ == "__main__":
    leave(main())
