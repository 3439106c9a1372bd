"""What the verbs about this machine can be told."""

from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import Field

from wsi_pipeline.settings import DIR, HOW, Device, StageConfig


class DoctorConfig(StageConfig):
    """Look whether all that the work needs is here, and take a small slide through it."""

    verb: ClassVar = "doctor"
    example: ClassVar = "--encoder uni --device cuda"

    encoder: Annotated[tuple[str, ...], HOW] = Field(
        default=(),
        description="An encoder whose weights must be here. May be given several times; the first "
        "is what the self-test runs.",
    )
    weights: Annotated[str, HOW] = Field(default="auto", description="As for extract.")
    device: Device = Field(default="auto", description="What must be there.")
    folder: Annotated[Path, HOW, DIR] = Field(
        default=Path(), description="Where the disk's speed is measured."
    )
    selftest: Annotated[bool, HOW] = Field(
        default=True, description="Cut a made slide, and encode its tiles on the device."
    )


class EncodersConfig(StageConfig):
    """List the published encoders, and which of them are here."""

    verb: ClassVar = "encoders"
    example: ClassVar = "--json"
    stage: ClassVar = "wsi_pipeline.pipeline.doctor:encoders"

    json_: Annotated[bool, HOW] = Field(
        default=False, description="All that is known of each, as JSON."
    )


VERBS: Final = (DoctorConfig, EncodersConfig)
