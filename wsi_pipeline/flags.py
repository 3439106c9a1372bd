"""A settings model as command-line flags: names, units, choices and help come from its fields."""

import csv
import difflib
import textwrap
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, HelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.settings import HIDDEN, POSITIONAL, Chosen, Metavar, Settings, StageConfig

UNITS: Final = {"mpp": "µm/px", "px": "px", "level0": "px", "um": "µm", "deg": "°", "s": "s",
                "mib": "MiB"}  # fmt: skip
NUMBERS: Final = {int: "N", float: "X"}
INDENT: Final = 30  # columns before the sentences
NO_SETTINGS: Final = ("config", "debug", "json")  # where settings come from, how things are told


class Flags(ArgumentParser):
    """What a verb understands."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the settings that stand in ``argv``: text, lists of text, or True and False.

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
    config_class: type[StageConfig], prog: str, about: str, given: Mapping[str, Any]
) -> Flags:
    """Return the command line of a config: its own settings by topic, then how the work is done.

    Args:
        config_class: Its fields are the flags; each class that it is made of is a group of them.
        prog: How the verb is called.
        about: A sentence.
        given: Values of a settings file, which are the defaults then.
    """
    fields = config_class.model_fields
    needed = [name for name, field in fields.items() if field.is_required() and name not in given]
    parser = Flags(
        prog=prog, description=about, usage=_usage(prog, fields, needed), add_help=False,
        allow_abbrev=False, argument_default=SUPPRESS, formatter_class=_Help,
    )  # fmt: skip
    for topic, names in topics(config_class):
        group = parser.add_argument_group(topic)
        for name in sorted(names, key=lambda name: not _stands_alone(fields[name])):
            _add(group.add_argument, name, fields[name], given.get(name, fields[name].default))
    group.add_argument("--config", type=Path, metavar="FILE",
                       help="TOML file with the same settings; a flag wins.")  # fmt: skip
    group.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    if "json_" not in fields:  # a verb with a JSON of its own
        text = "Tell a program: an object a line, nothing else on stdout."
        group.add_argument("--json", action="store_true", help=text)
    group.add_argument("-h", "--help", action="help", help="Show this and exit.")
    return parser


def topics(config_class: type[StageConfig]) -> Iterator[tuple[str, list[str]]]:
    """Yield each topic and its fields: the stage's own, the rooms', and the machine's last."""
    left = {name for name, info in config_class.model_fields.items() if HIDDEN not in info.metadata}
    classes = [cls for cls in config_class.__mro__ if issubclass(cls, Settings)]
    for cls in sorted(classes, key=lambda cls: cls is StageConfig):
        names = [name for name in cls.__annotations__ if name in left]
        left.difference_update(names)
        if names:
            yield str(vars(cls).get("topic", Settings.topic)), names


def _usage(prog: str, fields: Mapping[str, FieldInfo], needed: Sequence[str]) -> str:
    """Say what has to be given; the rest are options."""
    alone = [name for name, field in fields.items() if _stands_alone(field)]
    places = [metavar(name, fields[name]) + " …" * _takes_several(fields[name]) for name in alone]
    places = [text if name in needed else f"[{text}]"
              for name, text in zip(alone, places, strict=True)]  # fmt: skip
    flags = [f"{_flag(name)} {metavar(name, fields[name])}"
             for name in needed if name not in alone]  # fmt: skip
    return " ".join([prog, *places, *flags, "[options]"]).replace("%", "%%")


def _add(add: Callable[..., object], name: str, field: FieldInfo, default: object) -> None:
    """Add one field's flag, or its place on the line."""
    text = sentence(field, default).replace("%", "%%")
    if _kind(field) is bool:
        _add_switch(add, name, text, on=default is True)
    elif _stands_alone(field):
        shown = metavar(name, field)
        add(name, nargs="*" if _takes_several(field) else "?", metavar=shown, help=text)
    elif _takes_several(field):
        shown = metavar(name, field)
        add(_flag(name), action="extend", type=_several, metavar=shown, help=text)
    else:
        add(_flag(name), metavar=metavar(name, field), help=text)


def _add_switch(add: Callable[..., object], name: str, text: str, *, on: bool) -> None:
    """Add ``--x`` and ``--no-x``; the latter is shown only where x is on by default."""
    if on:
        add(_flag(name), action=BooleanOptionalAction, help=text)
        return
    add(_flag(name), dest=name, action="store_true", help=text)
    add(f"--no-{_flag(name)[2:]}", dest=name, action="store_false", help=SUPPRESS)


def _flag(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"  # json_: pydantic has a json of its own


def _stands_alone(field: FieldInfo) -> bool:
    return POSITIONAL in field.metadata


def _takes_several(field: FieldInfo) -> bool:
    return get_origin(_kind(field)) in (tuple, list)


def _several(text: str) -> list[str]:
    """Split a list: ``a,b``, ``[a, b]`` or ``"a, with a comma",b``."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [word for row in csv.reader([inside], skipinitialspace=True) for word in row if word]


def metavar(name: str, field: FieldInfo) -> str:
    """Return what stands for a field's value: its choices, its unit, or its kind."""
    for mark in field.metadata:
        if isinstance(mark, Metavar):
            return mark.text
        if isinstance(mark, Chosen):
            registry = mark.registry()
            return _choices([*registry, "module:function"] if registry.takes_own else registry)
    kind = get_args(_kind(field))[0] if _takes_several(field) else _kind(field)
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    if kind in NUMBERS:
        return _unit(name) or _share(field) or NUMBERS[kind]
    return "PATH" if kind is Path else name.rpartition("_")[2].upper()


def _choices(names: Iterable[str]) -> str:
    return "{" + ",".join(names) + "}"


def _unit(name: str) -> str | None:
    """Return the unit that a field's name bears."""
    words = [] if "_per_" in name else name.split("_")
    return next((UNITS[word] for word in reversed(words) if word in UNITS), None)


def _share(field: FieldInfo) -> str | None:
    """Return ``0–1`` where the bounds say so."""
    bounds = [getattr(mark, name) for mark in field.metadata
              for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)]  # fmt: skip
    return "0–1" if sorted(bounds) == [0, 1] else None


def _kind(field: FieldInfo) -> Any:
    """Return a field's type, without its None."""
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def sentence(field: FieldInfo, default: Any) -> str:
    """Return a field's sentence, with the default where it says something."""
    text = field.description or ""
    if field.is_required():
        default = None
    elif _takes_several(field):
        text = f"{text.rstrip('.')}; several with {'blanks' if _stands_alone(field) else 'commas'}."
        default = ",".join(map(str, default)) or None
    shown = "on" if default is True else default
    told = f"{text} ({shown})" if shown is not None and shown is not False else text
    return told.strip()


class _Help(HelpFormatter):
    """Sentences in one column, words and examples unbroken."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=INDENT)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        example = text.startswith("example")
        return text if example else super()._fill_text(text, width, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
