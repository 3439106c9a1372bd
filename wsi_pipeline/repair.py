"""``python -m wsi_pipeline.repair``, the same as ``wsi repair``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("repair")

if __name__ == "__main__":
    leave(main())
