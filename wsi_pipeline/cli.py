"""What every verb shares: flags and TOML to a config, events to the screen, and exit status.

0: all done. 1: some slides failed, or the work did. 2: the request itself was wrong.
"""

import argparse
import copy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from wsi_pipeline.config import StageConfig, describe, load_toml
from wsi_pipeline.errors import ConfigError, UsageError, WsiError
from wsi_pipeline.events import Event

Config = TypeVar("Config", bound=StageConfig)


def command(
    verb: str,
    config_class: type[Config],
    run: Callable[[Config], Iterator[Event]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one verb from its command line and return its exit status.

    Args:
        verb: The verb's name, for usage lines and the log.
        config_class: What can be asked; its fields are the flags.
        run: The stage.
        argv: Arguments without the program's name; None takes the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        config = parse(verb, config_class, arguments)
        from wsi_pipeline.screen import show

        return show(verb, config, run(config))
    except WsiError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _say(f"{verb}: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        _say(f"{verb}: stopped. What is finished is kept; the same command goes on from there.")
        return 130


def parse(verb: str, config_class: type[Config], argv: Sequence[str]) -> Config:
    """Make a config from flags and, with ``--config FILE.toml``, a file; a flag wins.

    Raises:
        ConfigError: An impossible value, or an unknown key in the file.
        SystemExit: After ``--help``, or with status 2 on an unknown flag.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--config", type=Path)
    file = peek.parse_known_args(argv)[0].config
    values = load_toml(file) if file else {}
    unknown = [key for key in values if key not in config_class.model_fields]
    if unknown:
        raise ConfigError(f"{file}: unknown setting {', '.join(map(repr, unknown))}; see --help")
    source = f"command line and {file}" if file else "command line"
    try:
        flags = _command_line(verb, config_class, values, argv)()
    except ValidationError as error:
        raise ConfigError(describe(error, source)) from None
    config = config_class.from_mapping(
        {name: getattr(flags, name) for name in config_class.model_fields}, source
    )
    return config.for_scheduler()


def _command_line(
    verb: str, config_class: type[StageConfig], values: dict[str, Any], argv: Sequence[str]
) -> type[BaseSettings]:
    """Build the settings class whose only source is ``argv`` and whose defaults are ``values``."""

    class Flags(BaseSettings, config_class):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            cli_prog_name=f"python -m wsi_pipeline.{verb}",
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            extra="forbid",
        )
        config: Path | None = Field(
            default=None, description="TOML file with the same settings; a flag wins."
        )
        debug: bool = Field(default=False, description="Show the traceback of an error.")

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[BaseSettings], **_: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (CliSettingsSource(settings_cls, cli_parse_args=list(argv)),)

    Flags.__doc__ = config_class.__doc__
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        field = copy.copy(config_class.model_fields[name])
        field.default = value
        defaults[name] = (field.annotation, field)
    return create_model("Flags", __base__=Flags, __doc__=config_class.__doc__, **defaults)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
