"""Keep modules and functions small: exit 1 and name each one that is not."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("valetkey", "models", "worker", "tests", "bench", "examples", "tools")
LONGEST_MODULE = 250
LONGEST_FUNCTION = 40


def too_long(path: Path) -> Iterator[str]:
    """Name what in a module is over the limits, as lines that an editor can jump to."""
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    if lines > LONGEST_MODULE:
        yield f"{path}:1: {lines} lines, over {LONGEST_MODULE}: split it by meaning"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                place = f"{path}:{node.lineno}"
                yield f"{place}: {node.name} has {lines} lines, over {LONGEST_FUNCTION}"


def main() -> int:
    """Look at every module of the project."""
    modules = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py"))]
    # A migration is as long as the tables it makes.
    ours = [path for path in modules if "migrations" not in path.parts]
    problems = [problem for path in ours for problem in too_long(path)]
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
