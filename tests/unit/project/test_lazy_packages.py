"""The packages whose names are imported on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import models
import valetkey
from tests.support.docs.command_lines import ROOT


@pytest.mark.parametrize("package", [models, valetkey], ids=lambda package: package.__name__)
def test_every_public_name_can_be_imported(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert [getattr(package, name).__name__ for name in names if name != "Code"] == [
        name for name in names if name != "Code"
    ]


def test_the_base_of_the_tables_has_the_tables_of_all_modules() -> None:
    program = "from models import Base; print(sorted(Base.metadata.tables))"
    first = _run(program)
    modules = [path.stem for path in Path(models.__file__ or "").parent.glob("*.py")]
    imports = "".join(f"import models.{name};" for name in modules if name != "__init__")
    assert first == _run(f"{imports} {program}") != "[]\n"


def _run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
