"""``python -m wsi_pipeline.demo``, the same as ``wsi demo``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("demo")

if __name__ == "__main__":
    leave(main())
