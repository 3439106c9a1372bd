"""``python -m wsi_pipeline.embed``, the same as ``wsi embed``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("embed")

if __name__ == "__main__":
    leave(main())
