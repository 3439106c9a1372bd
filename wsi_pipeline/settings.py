"""Settings: typed, frozen, the same from flags, from TOML and in the rooms that use them.

A knob is a field of one model, with its default, bounds and sentence; a room's own stand in the
room (``tiles.settings``), and a stage's config inherits them. A config says *what* is asked (it
decides the result and is stored with every artifact) and *how* it is carried out (folders, workers,
device: never part of an artifact's identity). The latter fields are marked with :data:`HOW`.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.registry import Registry, load, unknown
from wsi_pipeline.run_folder import RunFolder

HOW: Final = "how"  # annotation of a field that does not change the result
HIDDEN: Final = "hidden"  # of one that no flag sets
POSITIONAL: Final = "positional"  # of one that stands on the command line without its name
URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # also as pathlib writes one, with one slash
BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[^\0]*)?")
MOST_THREADS: Final = 8  # on one slide: its tiles are written by one, which more would wait for


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Metavar:
    """Annotation of a field: what ``--help`` shows in the place of its value."""

    text: str


FILE: Final = Metavar("FILE")
DIR: Final = Metavar("DIR")
COHORT: Final = Metavar("COHORT")  # a table, or a folder of slides
Run = Annotated[Path, HOW, POSITIONAL, DIR]
Slides = Annotated[Path | None, HOW, DIR]


def _here_or_in_a_bucket(value: Any) -> Any:
    """Leave a bucket's URL a text; all else is a path on this machine."""
    if isinstance(value, str) and BUCKET.fullmatch(value):
        return value.rstrip("/")
    if isinstance(value, str | Path) and URL.match(str(value)):
        raise ValueError(
            f"{value} is a URL, and this takes a path on this machine or s3://bucket/folder; "
            "nothing was done"
        )
    return Path(value) if isinstance(value, str) else value


InBucket = BeforeValidator(_here_or_in_a_bucket)  # of a field that is Path | str
SlidesAnywhere = Annotated[Path | str | None, InBucket, HOW, DIR]


@dataclass(frozen=True)
class Chosen:
    """Annotation of a field that names entries of a registry, which is imported when it is asked.

    Attributes:
        table: Where the registry is, ``module:NAME``.
    """

    table: str

    def registry(self) -> Registry[Any]:
        """Import the registry."""
        found: Registry[Any] = load(self.table)
        return found


def _is_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(unknown("device", name, DEVICES))
    return name


DEVICES: Final = ("auto", "cpu", "cuda", "cuda:N", "mps")
Device = Annotated[str, AfterValidator(_is_device), HOW, Metavar("{" + ",".join(DEVICES) + "}")]


class Settings(BaseModel):
    """Knobs of one topic, which heads them in ``--help``. Unknown keys are refused."""

    topic: ClassVar = "options"

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_here(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a URL where a path is asked for: it would become a folder ``s3:``."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if Path in kinds and str not in kinds:
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, str | Path) and URL.match(str(each)):
                    raise ValueError(
                        f"{each} is a URL, and this takes a path on this machine; nothing was "
                        "done (run folders in a bucket, s3://bucket/run, are for tile, extract, "
                        "predict, report and verify; slides in one for tile, extract and predict)"
                    )
        return value

    @field_validator("*")
    @classmethod
    def _is_known(cls, value: Any, info: ValidationInfo) -> Any:
        """Ask the registry of a :class:`Chosen` field; the default is known."""
        field = cls.model_fields[str(info.field_name)]
        if value != field.default:
            for chosen in (mark for mark in field.metadata if isinstance(mark, Chosen)):
                for name in (value,) if isinstance(value, str) else value or ():
                    chosen.registry().check(name)
        return value

    def identity(self) -> dict[str, Any]:
        """Return the resolved settings that decide the result, as JSON-ready data."""
        how = {name for name, info in type(self).model_fields.items() if HOW in info.metadata}
        return self.model_dump(mode="json", exclude=how)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], source: str) -> Self:
        """Validate ``values``.

        Raises:
            ConfigError: One sentence a problem, naming ``source`` and the key.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(describe(error, source, cls.model_fields)) from None


class CacheSettings(Settings):
    """Copies of slides that lie on a share or in a bucket."""

    topic: ClassVar = "slides on a share"

    cache: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="Local folder to copy slides of a share or a bucket to: the next is read ahead "
        "while the present one is cut. Several processes may share it.",
    )
    cache_gb: Annotated[float, HOW] = Field(
        default=200.0,
        gt=0,
        description="The most that such copies take, 10^9 bytes; the longest unused go first.",
    )

    @property
    def slide_cache(self) -> tuple[Path, int] | None:
        """Where copies of slides go, and how many bytes they may take; None without a cache."""
        return None if self.cache is None else (self.cache, round(self.cache_gb * 1e9))


class PatienceSettings(Settings):
    """How long a slide is waited for, and what it may take."""

    topic: ClassVar = "when a slide is given up"

    stall_s: Annotated[float, HOW] = Field(
        default=600.0,
        ge=0,
        description="Give a slide up of which no tile was read or encoded for so long; the others "
        "go on. 0 waits for ever.",
    )
    max_memory_share: Annotated[float, HOW] = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Give a slide up when more of the memory here is in use, and its process holds "
        "more than its part of that.",
    )


class StageConfig(Settings):
    """What every stage can be told. The class of a verb says all there is to say of it.

    Attributes:
        verb: Name of the verb. Its sentence is the first line of the class's docstring.
        example: A command line, without the verb.
        stage: ``module:function`` that takes the settings and yields events; by default ``run`` of
            the module in ``pipeline`` that is called as the verb.
        needs: Parts of the run folder that it works on, as ``RunFolder`` names them.
        makes: Those that it makes.
        only_reads: Whether it can do without a log in a run folder that cannot be written.
        stopped: What is true once it was stopped.
    """

    topic: ClassVar = "how the work is done"
    verb: ClassVar[str] = ""
    example: ClassVar[str] = ""
    stage: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    only_reads: ClassVar[bool] = False
    stopped: ClassVar[str] = "What is finished is kept; the same command goes on from there."

    workers: Annotated[int, HOW] = Field(
        default=0, ge=0, description="Worker processes; 0 works in this process."
    )
    scheduler: Annotated[str | None, HOW, Metavar("tcp://HOST:PORT")] = Field(
        default=None, description="Address of a running Dask scheduler."
    )
    dashboard: Annotated[bool, HOW] = Field(
        default=False,
        description="Show Dask's dashboard of the worker processes at http://127.0.0.1:8787, to "
        "everybody on this machine.",
    )
    dry_run: Annotated[bool, HOW] = Field(
        default=False, description="Say what would be done, and write nothing."
    )
    overwrite: Annotated[bool, HOW] = Field(
        default=False, description="Redo what was made with other settings or from another input."
    )

    profile: Annotated[bool, HOW] = Field(
        default=False, description="Write a trace of where the time goes to the run's logs."
    )

    @property
    def uses_gpu(self) -> bool:
        """Whether a slide's work occupies a GPU, where there is one."""
        return False

    @property
    def threads_each(self) -> int:
        """Threads that may work on one slide: the cores here, shared out among the workers.

        The workers of a running scheduler have cores that are not known here: one each.
        """
        if self.scheduler is not None:
            return 1
        return min(MOST_THREADS, max(1, usable_cores() // max(1, self.workers)))

    @property
    def run_folder(self) -> RunFolder | None:
        """The run folder worked in, where the verb's log goes; None for a stage without ``run``."""
        run = getattr(self, "run", None)
        return RunFolder(run) if isinstance(run, Path) else None

    def for_scheduler(self) -> Self:
        """Return the config with absolute paths where a scheduler has the work done elsewhere."""
        if self.scheduler is None:
            return self
        paths = {
            name: value.absolute()
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Path)
        }
        return self.model_copy(update=paths)


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    inside = get_args(annotation)
    return set().union(*map(_kinds, inside)) if inside else {annotation}


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It is missing or is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such settings file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def run_named_in(file: Path) -> RunFolder | None:
    """Return the run folder that a study or a plan names first; None where it cannot be read."""
    try:
        tables = load_toml(file).values()
    except ConfigError:
        return None
    runs = [table.get("run") for table in tables if isinstance(table, dict)]
    return next((RunFolder(Path(run)) for run in runs if isinstance(run, str)), None)


def describe(error: ValidationError, source: str, known: Iterable[str] = ()) -> str:
    """Say in one line per problem what is wrong with which key; ``known`` are those that exist."""
    problems = error.errors(include_url=False)
    return "\n".join(_sentence(dict(problem), source, known) for problem in problems)


def unknown_setting(key: str, known: Iterable[str]) -> str:
    """Say that there is no such setting, and which is nearest."""
    close = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see --help for those that exist"
    return f"unknown setting {key!r}; {hint}"


def _sentence(problem: dict[str, Any], source: str, known: Iterable[str]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    found, message = problem["input"], problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{source}: {unknown_setting(key, known)}"
    if problem["type"] == "missing":
        return f"{source}: {key!r} is required"
    if problem["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        message = unknown("choice", str(found), choices)
    elif problem["type"] != "value_error" and not isinstance(found, dict):
        message += f" (found {found!r})"
    return f"{source}: {key!r}: {message}" if key else f"{source}: {message}"


def digest(values: Any) -> str:
    """Return a short, stable digest of JSON-ready ``values``; key order does not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Name each setting in which ``asked`` departs from ``stored``: ``mpp: 0.5, asked 0.25``."""
    keys = sorted(stored.keys() | asked.keys())
    return [
        f"{key}: {stored.get(key)!r}, asked {asked.get(key)!r}"
        for key in keys
        if stored.get(key) != asked.get(key)
    ]
