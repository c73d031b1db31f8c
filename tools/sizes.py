"""Print the lines of each room, and check the sizes of folders, modules and functions.

Exits with 1 and names each one over its limit.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("valetkey", "models", "worker", "tests", "bench", "examples", "tools")
MAX_FOLDER_MODULES = 20
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 40


def find_problems(root: Path) -> list[str]:
    """Check all modules of the project's folders below root; return one line per problem."""
    modules = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    # Migrations are exempt: their length and number depend on the history of the tables.
    modules = [path for path in modules if "migrations" not in path.relative_to(root).parts]
    problems = list(_folder_problems(modules))
    for path in modules:
        problems += _module_problems(path)
    return problems


def _folder_problems(modules: list[Path]) -> Iterator[str]:
    """Name each folder with too many modules. __init__.py does not count."""
    counts = Counter(path.parent for path in modules if path.name != "__init__.py")
    for folder, count in counts.items():
        if count > MAX_FOLDER_MODULES:
            yield f"{folder}: {count} modules, over {MAX_FOLDER_MODULES}: group them in folders"


def _module_problems(path: Path) -> Iterator[str]:
    """Name a module or function that is too long, in a format that editors can jump to."""
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{path}:1: {lines} lines, over {MAX_MODULE_LINES}: split it by topic"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                location = f"{path}:{node.lineno}"
                yield f"{location}: {node.name} has {lines} lines, over {MAX_FUNCTION_LINES}"


def room_sizes(root: Path) -> Iterator[str]:
    """Yield the modules and lines of each package, and of each room of the worker."""
    for package in ("valetkey", "models", "worker"):
        paths = sorted((root / package).rglob("*.py"))
        yield _size(package, paths)
        if package == "worker":
            for room in sorted({path.parent for path in paths} - {root / package}):
                if room.parent == root / package:
                    yield _size(f"  {room.name}", sorted(room.rglob("*.py")))


def _size(name: str, paths: list[Path]) -> str:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    return f"{name:<12}{len(paths):>5} modules{lines:>8,} lines"


def main() -> int:
    """Print the rooms and the problems of the project in this folder; return the exit code."""
    problems = find_problems(Path())
    sys.stdout.write("".join(f"{line}\n" for line in [*room_sizes(Path()), *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
