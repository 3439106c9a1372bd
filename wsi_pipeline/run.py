"""``python -m wsi_pipeline.run``, the same as ``wsi run``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("run")

if __name__ == "__main__":
    leave(main())
