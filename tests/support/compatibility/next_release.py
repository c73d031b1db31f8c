"""The simulated next release: a copy of the checkout whose wire has grown."""

import ast
import shutil
from pathlib import Path

from tests.support.compatibility.releases import CHECKOUT, PACKAGES, Release

_FIELDS = (
    ("valetkey/wire/messages.py", "BatchHeader", "urgency: str | None = None"),
    ("valetkey/wire/messages.py", "Item", "note: str | None = None"),
    ("valetkey/wire/terms.py", "Terms", "priority: int = 0"),
    ("valetkey/wire/refusals.py", "Code", 'WEATHER_BAD = "weather_bad"'),
)
_DISPATCH = """

from worker.next_reply import extend_reply

_seal_plainly = _seal


def _seal(values, sender):
    is_next = sender.tenant.name.endswith("-next")
    return _seal_plainly(extend_reply(values) if is_next else values, sender)
"""


def next_release(folder: Path) -> Release:
    """Copy the checkout into a folder, and let its wire grow.

    Messages have new optional fields. The replies to tenants whose names end in -next have unknown
    fields, a new code, a new metric and a new source of expiry.
    """
    tree = folder / "next"
    for name in PACKAGES[:-1]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, tree / name, ignore=ignored)
    shutil.copy(CHECKOUT / "celeryconfig.py", tree)
    shutil.copy(Path(__file__).parent / "next_reply.py", tree / "worker")
    for module, class_name, line in _FIELDS:
        _add_to_class(tree / module, class_name, line)
    with (tree / "worker" / "issue" / "dispatch.py").open("a") as dispatch:
        dispatch.write(_DISPATCH)
    return Release("next", tree)


def _add_to_class(path: Path, class_name: str, line: str) -> None:
    """Insert a line after the last field of a class."""
    source = path.read_text(encoding="utf-8")
    (found,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign | ast.Assign)]
    lines = source.splitlines()
    lines.insert(fields[-1].end_lineno or 0, f"    {line}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
