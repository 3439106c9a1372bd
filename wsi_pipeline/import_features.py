"""``python -m wsi_pipeline.import_features``, the same as ``wsi import_features``."""

from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("import_features")

if __name__ == "__main__":
    leave(main())
