"""Take features of CLAM, TRIDENT or STAMP into a run folder.

python -m wsi_pipeline.import_features features_uni/ --run runs/liver --cohort liver.csv
"""

import sys
from collections.abc import Sequence

from wsi_pipeline.cli import command
from wsi_pipeline.pipeline.import_features import ImportConfig, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return command("import_features", ImportConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
