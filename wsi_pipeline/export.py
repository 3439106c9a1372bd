"""``python -m wsi_pipeline.export``, the same as ``wsi export``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("export")

if __name__ == "__main__":
    leave(main())
