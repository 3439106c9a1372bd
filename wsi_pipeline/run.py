"""Run a whole study from its file; what is finished is not redone.

python -m wsi_pipeline.run stages/liver.toml
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.study import RunConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("run", RunConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
