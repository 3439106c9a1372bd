"""A study from nothing: its files, as the package ships them, put where the study is to be run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import wsi_pipeline
from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import ConfigError, DiskError, UsageError, named
from wsi_pipeline.events import Event, Note, Written
from wsi_pipeline.registry import Registry
from wsi_pipeline.verbs.runs import InitConfig

PACKAGE: Final = Path(wsi_pipeline.__file__).parent
LIVER: Final[Mapping[str, str]] = {  # where it goes: what it is of the shipped files
    "liver.toml": "stages/liver_gdc.toml",
    "stages/gdc_tcga_liver.toml": "stages/gdc_tcga_liver.toml",
    "stages/gdc_tcga_liver_diagnostic.toml": "stages/gdc_tcga_liver_diagnostic.toml",
    "manifests/README.md": "manifests/README.md",
    "manifests/gdc_tcga_liver.txt": "manifests/gdc_tcga_liver.txt",
    "manifests/liver.csv": "manifests/liver.csv",
}
STUDIES: Final = Registry("study", {"liver": LIVER})


def run(config: InitConfig) -> Iterator[Event]:
    """Write a study's files into ``config.folder``.

    Raises:
        ConfigError: There is no such study.
        UsageError: Another file of the same name is there already, or none can be written.
        DiskError: The disk refuses one.
    """
    files, source = STUDIES.choose(config.name), _shipped()
    there = [name for name in files if _is_another(config.folder / name, source / files[name])]
    if there and not config.overwrite:
        raise ConfigError(
            f"{config.folder}: {named(there)} would be written over; choose another --folder, or "
            "--overwrite"
        )
    for name, shipped in files.items():
        target = config.folder / name
        if not config.dry_run:
            _write(target, (source / shipped).read_bytes())
        yield Written(path=str(target), what="study" if name.endswith("liver.toml") else "file")
    yield Note(
        text=f"cd {config.folder} && wsi run {config.name}.toml --dry-run says how much it is; "
        "without --dry-run it is done, and the same command goes on after an interruption"
    )


def _is_another(target: Path, shipped: Path) -> bool:
    """Whether a file is there that is not the shipped one, as an earlier call left it."""
    return target.exists() and not (
        target.is_file() and target.read_bytes() == shipped.read_bytes()
    )


def _write(target: Path, content: bytes) -> None:
    try:
        with atomic_file(target) as partial:
            partial.write_bytes(content)
    except DiskError:
        raise
    except OSError as error:
        raise UsageError(f"{target}: it cannot be written ({error.strerror})") from None


def _shipped() -> Path:
    """Return where the shipped files are: in the wheel, or beside the package in a checkout."""
    wheel = PACKAGE / "shipped"
    return wheel if wheel.is_dir() else PACKAGE.parent
