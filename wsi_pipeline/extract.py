"""``python -m wsi_pipeline.extract``, the same as ``wsi extract``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("extract")

if __name__ == "__main__":
    leave(main())
