"""``python -m wsi_pipeline.train``, the same as ``wsi train``."""

from wsi_pipeline.callable_module import make_callable
from wsi_pipeline.cli import verb_main
from wsi_pipeline.pulse import leave

main = verb_main("train")
make_callable(__name__)  # wsi_pipeline.train(...) is the interface's function

if __name__ == "__main__":
    leave(main())
