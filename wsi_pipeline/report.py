"""``python -m wsi_pipeline.report``, the same as ``wsi report``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("report")

if __name__ == "__main__":
    leave(main())
