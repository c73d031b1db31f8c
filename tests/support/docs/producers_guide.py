"""The examples in docs/producers.md: programs, command lines and a notebook."""

import ast
import re
from pathlib import Path
from typing import Any

GUIDE = (Path(__file__).parents[3] / "docs" / "producers.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL
)
COMMANDS = [text for language, text in BLOCKS if not language]
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
PROGRAMS = {
    match[1]: text
    for language, text in BLOCKS
    if language == "python" and (match := _FILE_NAME.match(text))
}
RECIPES: list[str] = re.findall(r"^## \d+\. (.+)$", GUIDE, re.MULTILINE)


def run_notebook(notebook: str) -> list[str]:
    """Run the cells of a notebook in order, and return the text displayed below each."""
    names: dict[str, Any] = {}
    return [_run_cell(cell, names) for cell in re.split(r"^# %%.*$", notebook, flags=re.MULTILINE)]


def _run_cell(cell: str, names: dict[str, Any]) -> str:
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - the guide's own code
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307 - as above
    return "" if value is None else repr(value)
