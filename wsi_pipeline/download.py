"""``python -m wsi_pipeline.download``, the same as ``wsi download``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("download")

if __name__ == "__main__":
    leave(main())
