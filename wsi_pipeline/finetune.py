"""Fine-tune an encoder end to end on tiles or flat images, and validate it.

python -m wsi_pipeline.finetune runs/liver --encoder densenet121 --external tma
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.finetune import run
from wsi_pipeline.pipeline.finetune_config import FinetuneConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("finetune", FinetuneConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
