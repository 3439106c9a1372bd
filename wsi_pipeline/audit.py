"""``python -m wsi_pipeline.audit``, the same as ``wsi audit``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("audit")

if __name__ == "__main__":
    leave(main())
