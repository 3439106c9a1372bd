"""``python -m wsi_pipeline.view``, the same as ``wsi view``."""

import sys

from wsi_pipeline.callable_module import make_callable
from wsi_pipeline.cli import verb_main

main = verb_main("view")
make_callable(__name__)  # wsi_pipeline.view(...) is the interface's function

if __name__ == "__main__":
    sys.exit(main())
