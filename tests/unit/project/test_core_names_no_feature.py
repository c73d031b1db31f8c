"""The core of the worker names no feature: not its modules, its references, nor its tables."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from tests.support.docs.command_lines import ROOT
from tools.sizes import core_modules
from worker.features import FEATURES

FEATURE_NAMES = [feature.name for feature in FEATURES[1:]]
TABLES = {table for feature in FEATURES[1:] for table in feature.tables}
MODELS = {
    mapper.class_.__name__
    for mapper in models.Base.registry.mappers
    if mapper.local_table is not None and getattr(mapper.local_table, "name", "") in TABLES
}
REFERENCE = re.compile(r"[a-z_.]+:\w+")
MODULES = [path for path in core_modules(ROOT) if path != ROOT / "worker" / "features.py"]


def named_features(path: Path) -> Iterator[str]:
    """Yield what a module names of a feature, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                imported = [module, *(f"{module}.{alias.name}" for alias in names)]
            case ast.Import(names=names):
                imported = [alias.name for alias in names]
            case ast.Constant(value=str(text)):
                imported = [
                    text,
                    *([f"worker.{text}".replace(":", ".")] if REFERENCE.fullmatch(text) else []),
                ]
            case ast.Attribute(value=ast.Name(id="models"), attr=name):
                imported = [f"models.{name}"]
            case _:
                continue
        if found := [each for each in imported if is_of_a_feature(each)]:
            yield f"{getattr(node, 'lineno', 0)}: {found[0]}"


def is_of_a_feature(name: str) -> bool:
    """Return true if a dotted name lies in a feature's package, or is the class of its table."""
    package, _, rest = name.partition(".")
    if package == "models":
        return rest.rpartition(".")[2] in MODELS
    return any(f"{name}.".startswith(f"worker.{each}.") for each in FEATURE_NAMES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_the_core_names_no_feature(path: Path) -> None:
    assert list(named_features(path)) == []
