"""``python -m wsi_pipeline.qc``, the same as ``wsi qc``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("qc")

if __name__ == "__main__":
    leave(main())
