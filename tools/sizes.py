"""Print the lines of the core and each feature, and check folders, modules and functions.

Exits with 1 and names each one over its limit.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from worker.features import FEATURES, NAMES

FOLDERS = ("valetkey", "models", "worker", "tests", "bench", "examples", "tools")
MAX_FOLDER_MODULES = 20
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_CORE_LINES = 15_000


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


def package_sizes(root: Path) -> Iterator[str]:
    """Yield the modules and lines of each package, of the core, and of each feature."""
    for package in ("valetkey", "models", "worker"):
        yield _size(package, sorted((root / package).rglob("*.py")))
    core = core_modules(root)
    yield _size("  core", core)
    yield _size("  shared", sorted((root / "worker" / "shared").rglob("*.py")))
    for feature in FEATURES[1:]:
        hooks, needs = ", ".join(feature.hooks), ", ".join(feature.needs)
        parts = [*([f"hooks: {hooks}"] if hooks else []), *([f"needs: {needs}"] if needs else [])]
        size = _size(f"  {feature.name}", sorted((root / "worker" / feature.name).rglob("*.py")))
        yield f"{size}  {'; '.join(parts)}".rstrip()
    lines = _count_lines(core)
    if lines > MAX_CORE_LINES:
        yield f"The core has {lines:,} lines, over {MAX_CORE_LINES:,}."


def core_modules(root: Path) -> list[Path]:
    """Return the modules of the worker that belong to no feature, and are not shared by some."""
    features = {root / "worker" / name for name in ("shared", *NAMES)}
    paths = sorted((root / "worker").rglob("*.py"))
    return [path for path in paths if features.isdisjoint(path.parents)]


def _size(name: str, paths: list[Path]) -> str:
    return f"{name:<14}{len(paths):>5} modules{_count_lines(paths):>8,} lines"


def _count_lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


_PRINT_IMPORTS = """
import sys, worker.tasks
for module in list(sys.modules.values()):
    if module.__name__.partition(".")[0] in ("models", "valetkey", "worker") and module.__file__:
        print(module.__file__)
"""
_TERMINAL_IMPORT = re.compile(r"^(?:from|import) (?:click|jinja2|rich)\b", re.MULTILINE)


def issuing_process() -> tuple[str, list[str]]:
    """Return the size of what an issuing process imports, and a line per module it must not."""
    command = [sys.executable, "-c", _PRINT_IMPORTS]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    paths = [Path(line) for line in completed.stdout.splitlines()]
    problems = [
        f"{path}: an issuing process imports it, and it imports click, jinja2 or rich"
        for path in paths
        if _TERMINAL_IMPORT.search(path.read_text(encoding="utf-8"))
    ]
    return _size("issuing", paths), problems


def main() -> int:
    """Print the sizes and problems of the project in this folder; return the exit code."""
    imported, problems = issuing_process()
    problems += find_problems(Path())
    lines = [*package_sizes(Path()), imported, *problems]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
