"""``python -m wsi_pipeline.verify``, the same as ``wsi verify``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("verify")

if __name__ == "__main__":
    leave(main())
