"""``python -m wsi_pipeline.cores``, the same as ``wsi cores``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("cores")

if __name__ == "__main__":
    leave(main())
