"""The packages that a program imports."""

import ast
from collections.abc import Iterator


def imported_packages(tree: ast.Module) -> Iterator[str]:
    """Yield the name of each imported package, the standard library's too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
