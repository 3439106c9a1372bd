"""``python -m wsi_pipeline``: every verb through one door."""

from wsi_pipeline.cli import main
from wsi_pipeline.pulse import leave

if __name__ == "__main__":
    leave(main())
