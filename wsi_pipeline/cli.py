"""The one door: a verb, its flags and TOML file to settings, its events to the screen, exit status.

``wsi VERB``, ``python -m wsi_pipeline VERB`` and ``python -m wsi_pipeline.VERB`` are the same.
Exit status 0: all done. 1: some slides failed, or the work did. 2: the request itself was wrong.
130, 143: stopped by Ctrl-C, by SIGTERM. With ``--json`` stdout has an object a line, nothing else.
"""

import argparse
import codecs
import io
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from wsi_pipeline.stopping import Stopped, end, started, starting, stoppable

starting()  # before all that takes a second to import
# pydantic would read the entry points of every package that is installed, each time it starts
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# stages keep every core busy themselves; OpenCV's own threads would wait for work on them, awake
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")

from wsi_pipeline import __version__, verbs  # noqa: E402
from wsi_pipeline.errors import ConfigError, UsageError, WsiError, disk_error  # noqa: E402
from wsi_pipeline.flags import flags_of  # noqa: E402
from wsi_pipeline.pulse import leave  # noqa: E402
from wsi_pipeline.settings import DIR, FILE, StageConfig, load_toml, unknown_setting  # noqa: E402
from wsi_pipeline.verbs import Verb  # noqa: E402

WIDTH: Final = 100  # of the list of verbs, at most
PLAIN: Final = {"–": "-", "—": "-", "−": "-", "…": "...", "µ": "u", "×": "x", "→": "->", "≥": ">=",
                "≤": "<=", "“": '"', "”": '"', "’": "'", "·": "-", "°": "deg"}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that is named first; without one, list them. Return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _forgive()
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(listing())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"wsi_pipeline {__version__}\n")
        return 0
    try:
        if words[0] == "--completion":
            sys.stdout.write(completion("".join(words[1:2])))
            return 0
        verb = verbs.VERBS.choose(words[0].replace("-", "_"))
    except ConfigError as error:
        _say(f"wsi: {error}")
        return 2
    return command(verb, words[1:], ends=argv is None)


def door() -> NoReturn:
    """Run ``wsi``."""
    leave(main())


def verb_main(name: str) -> Callable[..., int]:
    """Return ``main`` of a verb's own module: it takes the arguments after the verb's name."""

    def own_main(argv: Sequence[str] | None = None) -> int:
        if argv is not None:
            return main([name, *argv])
        sys.argv.insert(1, name)
        return main()

    return own_main


def command(verb: Verb, argv: Sequence[str], *, ends: bool = False) -> int:
    """Run one verb on its arguments and return its exit status; ``ends``: the process ends then."""
    _forgive()
    as_json = "--json" in argv and "json_" not in verb.config_class.model_fields
    try:
        with stoppable(lambda: _say_stopped(verb), ends=ends):
            config = parse(verb, argv)
            from wsi_pipeline.screen import show  # after parsing: --help needs no screen

            events = verb.run(config)
            if ends:
                started()
            return show(verb.name, config, events, as_json=as_json)
    except (WsiError, OSError) as error:
        told = error if isinstance(error, WsiError) else disk_error(error)
        if "--debug" in argv:
            traceback.print_exc()
        if told is None:
            raise
        _say(f"{verb.name}: {told}")
        status = 2 if isinstance(told, UsageError) else 1
        if as_json:
            _refuse(verb, status, str(told))
        return status
    except KeyboardInterrupt as stopped:
        _say_stopped(verb)
        status = stopped.status if isinstance(stopped, Stopped) else 130
        if as_json:
            _refuse(verb, status, "stopped")
        if ends:
            end(status)
        return status


def _say_stopped(verb: Verb) -> None:
    _say(f"{verb.name}: stopped. {verb.config_class.stopped}")


def _refuse(verb: Verb, status: int, error: str) -> None:
    """Tell a program, which reads stdout alone, how the call ended."""
    from wsi_pipeline.display import JsonLines

    JsonLines(verb.name, sys.stdout).refuse(status, error)


def _forgive() -> None:
    """Have the standard streams replace letters that their encoding lacks, and never stop for one.

    A Windows console has cp1252, a bare container ASCII; names of files may hold no letters at all.
    """
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in letters), error.end


def parse(verb: Verb, argv: Sequence[str]) -> StageConfig:
    """Make a config from flags and, with ``--config FILE.toml``, a file; a flag wins.

    Raises:
        ConfigError: A flag or a key is unknown, or a value impossible.
        SystemExit: After ``--help``.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--config", type=Path)
    file = peek.parse_known_args(argv)[0].config
    values = load_toml(file) if file else {}
    config_class = verb.config_class
    for key in values:
        if key not in config_class.model_fields:
            raise ConfigError(f"{file}: {unknown_setting(key, config_class.model_fields)}")
    prog = _prog(verb.name)
    parser = flags_of(config_class, prog, verb.about, values)
    parser.epilog = f"example:\n  {prog} {config_class.example}"
    given = parser.read(argv)
    source = f"command line and {file}" if file else "command line"
    return config_class.from_mapping(values | given, source).for_scheduler()


def listing() -> str:
    """Return every verb with a sentence, by what it works on."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    lines = ["usage: wsi VERB [options], or python -m wsi_pipeline.VERB", ""]
    for group, configs in verbs.GROUPS.items():
        lines.append(f"{group}:")
        for verb in map(Verb, configs):
            lines += textwrap.wrap(f"  {verb.name:<16}  {verb.about}", width,
                                   subsequent_indent=" " * 20)  # fmt: skip
        lines.append("")
    return "\n".join([*lines, "wsi VERB --help says what a verb can be told.", ""])


def completion(shell: str) -> str:
    """Return a script that completes verbs, flags and their words in a shell.

    Raises:
        ConfigError: It is another shell, or shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "--completion needs shtab: pip install 'wsi-pipeline[completion]'"
        ) from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(f"--completion takes one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    parser = argparse.ArgumentParser("wsi")
    branches = parser.add_subparsers()
    for verb in verbs.VERBS.values():
        flags = flags_of(verb.config_class, f"wsi {verb.name}", verb.about, {})
        one = branches.add_parser(verb.name, parents=[flags], add_help=False, help=verb.about)
        for action in one._actions:  # noqa: SLF001  argparse has no public way to a parser's flags
            words = str(action.metavar or "")
            if words.startswith("{"):
                action.choices = words[1:-1].split(",")
            elif words in ("PATH", DIR.text, FILE.text):
                vars(action)["complete"] = shtab.FILE  # where shtab looks for it
    return str(shtab.complete(parser, shell))


def _prog(verb: str) -> str:
    """Return how a verb is called: as it just was."""
    short = Path(sys.argv[0]).stem == "wsi"
    return f"wsi {verb}" if short else f"python -m wsi_pipeline.{verb}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
