"""Count what a newcomer has to walk through: files, lines, imports that jump a fence.

python -m benchmarks.structure [FOLDER]
"""

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "wsi_pipeline"
NO_ROOMS = ("pipeline", "verbs")  # a module a verb: there is no door in front of them


def modules(root: Path) -> dict[str, Path]:
    """Return the package's modules by dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool, bool]]:
    """Yield each import of ours: the module, whether inside a function, whether for types only."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            exported = _exports(known.get(node.module))
            targets = [
                full
                if (full := f"{node.module}.{alias.name}") in known and alias.name not in exported
                else node.module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name.startswith(PACKAGE)]
        for target in sorted(set(targets)):
            if target != name:
                yield target, id(node) in inside, id(node) in typing_only


@cache
def _exports(path: Path | None) -> frozenset[str]:
    """Return what a room's ``__init__`` lets out, where it says so."""
    stubs = [] if path is None else [path.with_suffix(".pyi"), path]
    text = next((stub.read_text() for stub in stubs if stub.is_file()), "")
    _, _, listed = text.partition("__all__ = [")
    return frozenset(re.findall(r'"(\w+)"', listed))


def room(module: str) -> str:
    """Return the first part of a module's name below the package."""
    return module.split(".")[1] if "." in module else module


def functions(path: Path) -> Iterator[int]:
    """Yield the length of each function, lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def twice(root: Path) -> dict[str, list[str]]:
    """Return the settings that two classes write with the same default, ``name = default``.

    A class of settings is one whose name ends in Settings or Config. ``None`` says nothing, and a
    setting without a default is each stage's own question.
    """
    found: dict[str, list[str]] = {}
    for name, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Config")):
                for field in _defaults(node):
                    found.setdefault(field, []).append(f"{name}.{node.name}")
    return {field: classes for field, classes in sorted(found.items()) if len(classes) > 1}


def _defaults(settings: ast.ClassDef) -> Iterator[str]:
    for line in settings.body:
        if not isinstance(line, ast.AnnAssign) or line.value is None:
            continue
        if "ClassVar" in ast.unparse(line.annotation):  # said of the class, not asked of anyone
            continue
        default: ast.expr | None = line.value
        if isinstance(default, ast.Call):
            default = next((word.value for word in default.keywords if word.arg == "default"), None)
        if default is not None and ast.unparse(default) != "None":
            yield f"{ast.unparse(line.target)} = {ast.unparse(default)}"


def circles(root: Path) -> list[list[str]]:
    """Return each set of modules that import one another, wherever the imports stand."""
    known = modules(root)
    graph = {name: {found for found, *_ in imports(name, path, known)} & known.keys()
             for name, path in known.items()}  # fmt: skip
    reached = {name: _reached_from(name, graph) for name in graph}
    rings = {frozenset(other for other in reached[name] if name in reached[other])
             for name in graph if name in reached[name]}  # fmt: skip
    return sorted(map(sorted, rings))


def _reached_from(name: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [*graph[name]]
    while ahead:
        if (module := ahead.pop()) not in found:
            found.add(module)
            ahead += graph[module]
    return found


def count(root: Path) -> dict[str, float]:
    """Return the figures by what they count."""
    known = modules(root)
    rooms = {
        name.split(".")[1]
        for name, path in known.items()
        if path.name == "__init__.py" and "." in name
    } - set(NO_ROOMS)
    importers: Counter[str] = Counter()
    local = past = between = 0
    for name, path in known.items():
        seen = set()
        for target, inside, _ in imports(name, path, known):
            seen.add(target)
            local += inside and room(name) == "pipeline"
            if room(target) in rooms and room(target) != room(name):
                between += 1
                past += target.count(".") > 1
        importers.update(seen)
    lines = {name: len(path.read_text().splitlines()) for name, path in known.items()}
    lengths = [length for path in known.values() for length in functions(path)]
    single = [n for n, path in known.items() if importers[n] == 1 and path.name != "__init__.py"]
    return {
        "files": len(known),
        "lines": sum(lines.values()),
        "median lines of a file": statistics.median(lines.values()),
        "files over 500 lines": sum(n > 500 for n in lines.values()),
        "functions": len(lengths),
        "median lines of a function": statistics.median(lengths),
        "longest function": max(lengths),
        "modules with a single importer": len(single),
        "of these under 80 lines": sum(lines[n] < 80 for n in single),
        "imports inside functions of pipeline/": local,
        "imports between rooms": between,
        "of these past a room's __init__": past,
        "import circles": len(circles(root)),
        "settings that two classes write": len(twice(root)),
    }


if __name__ == "__main__":
    for what, number in count(Path(sys.argv[1] if len(sys.argv) > 1 else ".")).items():
        sys.stdout.write(f"{what:40} {number:>8g}\n")
