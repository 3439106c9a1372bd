"""A settings model as command-line flags: names, units, choices and help come from its fields."""

import csv
import difflib
import textwrap
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, HelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from wsi_pipeline.config import POSITIONAL, Chosen, Metavar, Settings, StageConfig
from wsi_pipeline.errors import ConfigError

UNITS: Final = {"mpp": "µm/px", "px": "px", "level0": "px", "um": "µm", "deg": "°", "s": "s",
                "mib": "MiB"}  # fmt: skip
NUMBERS: Final = {int: "N", float: "X"}
INDENT: Final = 30  # columns before the sentences

NO_SETTINGS: Final = ("config", "debug")  # where settings come from; how errors are told

Fields = dict[str, FieldInfo]


class Flags(ArgumentParser):
    """What a verb understands. It never exits by itself but after ``--help``."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the settings that stand in ``argv``, as text where they are not flags alone.

        Raises:
            ConfigError: A flag is unknown or lacks its value.
            SystemExit: After ``--help``.
        """
        found, strangers = self.parse_known_intermixed_args(argv)
        for word in strangers:
            self._refuse(word.partition("=")[0])
        return {name: value for name, value in vars(found).items() if name not in NO_SETTINGS}

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            raise ConfigError(f"{word!r} stands alone: no flag before it takes it; see --help")
        known = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for those that exist"
        raise ConfigError(f"there is no flag {word}; {hint}")


def flags_of(
    config_class: type[StageConfig], prog: str, about: str, given: Mapping[str, Any] | None = None
) -> Flags:
    """Return the command line of a config: its own settings by topic, then how the work is done.

    Args:
        config_class: Its fields are the flags; each class that it is made of is a group of them.
        prog: How the verb is called.
        about: A sentence.
        given: Values of a settings file, which are the defaults then.
    """
    given = given or {}
    fields = config_class.model_fields
    parser = Flags(prog=prog, description=about, add_help=False, allow_abbrev=False,
                   argument_default=SUPPRESS, formatter_class=_Help)  # fmt: skip
    parser.usage = _usage(prog, {name: f for name, f in fields.items() if name not in given})
    for title, names in _groups(config_class):
        group = parser.add_argument_group(title)
        for name in sorted(names, key=lambda name: POSITIONAL not in fields[name].metadata):
            _add(group.add_argument, name, fields[name], given.get(name, fields[name].default))
        if title == StageConfig.topic:
            config = "TOML file with the same settings; a flag wins."
            group.add_argument("--config", type=Path, metavar="FILE", default=None, help=config)
            debug = "Show the traceback of an error."
            group.add_argument("--debug", action="store_true", help=debug)
            group.add_argument("-h", "--help", action="help", help="Show this and exit.")
    return parser


def _groups(config_class: type[StageConfig]) -> Iterator[tuple[str, list[str]]]:
    """Yield each group's title and fields: the stage's own, the rooms', and the machine's last."""
    left = dict(config_class.model_fields)
    classes = [cls for cls in config_class.__mro__ if issubclass(cls, Settings)]
    for cls in sorted(classes, key=lambda cls: cls is StageConfig):
        names = [name for name in cls.__annotations__ if left.pop(name, None) is not None]
        if names:
            yield str(vars(cls).get("topic", Settings.topic)), names


def _usage(prog: str, fields: Fields) -> str:
    """Say what has to be given; the rest are options."""
    parts = [prog]
    for name, field in fields.items():
        positional = POSITIONAL in field.metadata
        if positional:
            shown = metavar(name, field)
            parts.insert(1, shown if field.is_required() else f"[{shown}]")
        elif field.is_required():
            parts.append(f"--{name.replace('_', '-')} {metavar(name, field)}")
    return " ".join([*parts, "[options]"]).replace("%", "%%")


def _add(add: Any, name: str, field: FieldInfo, default: Any) -> None:
    """Add one field's flag, or its place on the line."""
    flag, text = f"--{name.replace('_', '-')}", _sentence(field, default)
    if POSITIONAL in field.metadata:
        several = get_origin(_kind(field)) in (tuple, list)
        add(name, nargs="*" if several else "?", metavar=metavar(name, field), help=text)
    elif _kind(field) is bool and default:
        add(flag, action=BooleanOptionalAction, help=text)
    elif _kind(field) is bool:
        add(flag, action="store_true", help=text)
        add(f"--no-{flag[2:]}", dest=name, action="store_false", help=SUPPRESS)
    elif get_origin(_kind(field)) in (tuple, list):
        add(flag, action="extend", type=_several, metavar=metavar(name, field), help=text)
    else:
        add(flag, metavar=metavar(name, field), help=text)


def _several(text: str) -> list[str]:
    """Split a list: ``a,b``, ``[a, b]`` or ``"a, with a comma",b``."""
    rows = list(
        csv.reader([text.strip().removeprefix("[").removesuffix("]")], skipinitialspace=True)
    )
    return [word for row in rows for word in row if word]


def metavar(name: str, field: FieldInfo) -> str:
    """Return what stands for a field's value: its choices, its unit, or its kind."""
    for mark in field.metadata:
        if isinstance(mark, Metavar):
            return mark.text
        if isinstance(mark, Chosen):
            registry = mark.registry()
            return _choices([*registry, "module:function"] if registry.takes_own else registry)
    kind = _kind(field)
    if get_origin(kind) in (tuple, list):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    words = () if "_per_" in name else reversed(name.split("_"))
    unit = next((UNITS[word] for word in words if word in UNITS), None)
    if kind in NUMBERS:
        return unit or _share(field) or NUMBERS[kind]
    return "PATH" if kind is Path else name.rpartition("_")[2].upper()


def _choices(names: Any) -> str:
    return "{" + ",".join(names) + "}"


def _share(field: FieldInfo) -> str | None:
    """Return ``0–1`` for a share, which the bounds tell."""
    low = next((m.ge if hasattr(m, "ge") else m.gt for m in field.metadata
                if hasattr(m, "ge") or hasattr(m, "gt")), None)  # fmt: skip
    high = next((m.le if hasattr(m, "le") else m.lt for m in field.metadata
                 if hasattr(m, "le") or hasattr(m, "lt")), None)  # fmt: skip
    return "0–1" if (low, high) == (0, 1) else None


def _kind(field: FieldInfo) -> Any:
    """Return a field's type, without its None."""
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _sentence(field: FieldInfo, default: Any) -> str:
    """Return a field's sentence, with the default where it says something."""
    text = field.description or ""
    if get_origin(_kind(field)) in (tuple, list):
        text = f"{text.rstrip('.')}; several with commas."
        default = ",".join(map(str, default))
    if not field.is_required() and default is not None and default is not False and default != "":
        text = f"{text} ({'on' if default is True else default})"
    return text.strip().replace("%", "%%")


class _Help(HelpFormatter):
    """Sentences in one column, words and examples unbroken."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=INDENT)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        example = text.startswith("example")
        return text if example else super()._fill_text(text, width, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
