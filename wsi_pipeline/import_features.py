"""``python -m wsi_pipeline.import_features``, the same as ``wsi import_features``."""

import sys

from wsi_pipeline.cli import verb_main

main = verb_main("import_features")

if __name__ == "__main__":
    sys.exit(main())
