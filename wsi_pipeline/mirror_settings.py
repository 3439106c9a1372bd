"""What a stage can be told of a run folder in a bucket; light, for every call reads it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from wsi_pipeline.settings import DIR, HIDDEN, HOW, Settings
from wsi_pipeline.shard import Shard

S3: Final = re.compile(r"s3://[^/]+/.*[^/].*")
THUMBNAILS: Final = r"thumbnails/(?P<id>[^/]+)\.jpg"
TILES: Final = r"tiles/(?P<id>[^/]+)\.(zarr|h5)"
FEATURES: Final = r"features/[^/]+/(?P<id>[^/]+)\.h5"
PREDICTIONS: Final = r"predictions/[^/]+/(?P<id>[^/]+)\.(h5|geojson)"


@dataclass(frozen=True)
class Brought:
    """Artifacts whose name is of a pattern, and their slide, if it says ``id``, in the shard.

    Without ``pixels`` a Zarr store is brought so that all but its pixels can be read.
    """

    pattern: str
    pixels: bool = True


class MirrorSettings(Settings):
    """Where a run folder that lies in a bucket is worked on."""

    topic = "run folders in a bucket"

    scratch: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="With --run s3://bucket/run: local folder to work in; a folder of the user's "
        "cache if not given. It may be deleted when nothing runs.",
    )
    remote: Annotated[str | None, HOW, HIDDEN] = Field(default=None)

    @property
    def brings(self) -> tuple[Brought, ...]:
        """What of the run is brought to scratch before the work."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _in_a_bucket(cls, values: Any) -> Any:
        """Work in scratch where the run folder is in a bucket."""
        if not isinstance(values, dict) or values.get("remote"):
            return values
        run, scratch = values.get("run"), values.get("scratch")
        if not (isinstance(run, str) and S3.fullmatch(run)):
            if scratch is not None:
                raise ValueError("--scratch goes with --run s3://bucket/run")
            return values
        if values.get("scheduler"):
            raise ValueError(
                f"{run}: the workers of a scheduler have disks of their own; a run in a bucket "
                "goes with --workers, and with --shard on several machines"
            )
        if values.get("new_slides"):
            raise ValueError(f"{run}: tile and extract the new slides there, then predict")
        url = run.rstrip("/")
        root = cache_folder() if scratch is None else Path(scratch)
        shard = str(values.get("shard") or Shard()).replace("/", "-of-")
        return values | {"run": root / url.removeprefix("s3://") / shard, "remote": url}


def cache_folder() -> Path:
    """Return where what can be had again is kept between calls, on the user's own account."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wsi_pipeline"
