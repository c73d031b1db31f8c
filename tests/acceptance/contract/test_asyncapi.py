"""docs/contract, checked by the parser of AsyncAPI and by a strict validator of JSON Schema."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT
from tests.support.s3 import chromium
from tests.support.scope import skip_without
from tests.support.servers.programs import run_program

CHECK = Path(__file__).with_name("check.mjs")
# The folder into which `make browser` installs the packages of package-lock.json.
PACKAGES = Path(sys.prefix) / "contract"
DOCUMENT = ROOT / "docs" / "contract" / "asyncapi.json"
SCHEMAS = sorted(map(str, DOCUMENT.parent.glob("*.schema.json")))

Check = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def check() -> Check:
    """A function that runs check.mjs, and returns the problems that it prints."""
    node = chromium.node()
    if node is None or not (PACKAGES / "node_modules").exists():
        skip_without("the AsyncAPI document, checked by its own parser", "make browser")

    def run_check(*words: str) -> list[Any]:
        command = [str(node), str(CHECK), str(PACKAGES), *words]
        problems: list[Any] = json.loads(run_program(command, check=True).stdout)
        return problems

    return run_check


def test_the_parser_of_asyncapi_accepts_the_document(check: Check) -> None:
    problems = check("asyncapi", str(DOCUMENT))
    # Version 3.0 is the one that most tools read, and has all that the document needs.
    assert [code for code, *_ in problems if code != "asyncapi-latest-version"] == []


def test_the_check_finds_errors_in_a_document(check: Check, tmp_path: Path) -> None:
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    document["operations"] |= {"receiveNothing": {"action": "receive"}}
    (tmp_path / "asyncapi.json").write_text(json.dumps(document))
    assert check("asyncapi", str(tmp_path / "asyncapi.json"))[1:]


def test_a_strict_validator_compiles_the_schemas(check: Check, tmp_path: Path) -> None:
    assert len(SCHEMAS) == 5
    assert check("schemas", *SCHEMAS) == []
    (tmp_path / "unknown.json").write_text('{"type": "string", "x-values": ["a"]}')
    ((_, problem),) = check("schemas", str(tmp_path / "unknown.json"))
    assert 'unknown keyword: "x-values"' in problem
