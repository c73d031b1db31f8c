"""tools/audit.py, with a pip-audit that returns what each test needs, and tools/sizes.py."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.docs.command_lines import ROOT
from tests.support.servers.programs import run_program
from tools import sizes
from worker.features import NAMES

PIP_AUDIT = """
import json, sys
responses = json.loads({responses!r})
response = responses[sys.argv[sys.argv.index("--vulnerability-service") + 1]]
assert "--require-hashes" in sys.argv and "--requirement" in sys.argv
if response is None:
    raise ConnectionError("HTTPSConnectionPool(host=...)")
print(json.dumps({{"dependencies": response, "fixes": []}}))
sys.exit(any(package.get("vulns") for package in response))
"""
HARMLESS = {"name": "boto3", "version": "1.43.106", "vulns": []}
UNKNOWN = {"name": "redis", "skip_reason": "Dependency not found on PyPI"}
VULNERABILITY = {"id": "PYSEC-2026-1", "fix_versions": ["2.8.1"], "aliases": [], "description": ""}
VULNERABLE = {"name": "urllib3", "version": "2.8.0", "vulns": [VULNERABILITY]}


def audit(folder: Path, **responses: list[dict[str, Any]] | None) -> tuple[int, list[str]]:
    """Run the tool; return its exit code and the lines that it prints."""
    (folder / "pip_audit").mkdir()
    module = PIP_AUDIT.format(responses=json.dumps(responses))
    (folder / "pip_audit" / "__main__.py").write_text(module)
    (folder / "pip_audit" / "__init__.py").touch()
    (folder / "requirements.lock").touch()
    command = [sys.executable, str(ROOT / "tools" / "audit.py")]
    environ = dict(os.environ) | {"PYTHONPATH": str(folder)}
    completed = run_program(command, cwd=folder, env=environ)
    assert completed.stderr == ""
    return completed.returncode, completed.stdout.splitlines()


def test_a_known_vulnerability_fails_and_is_named(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, pypi=[HARMLESS, VULNERABLE])
    assert code == 1
    assert lines[0] == "urllib3 2.8.0: PYSEC-2026-1, fixed in 2.8.1"


def test_packages_without_known_vulnerabilities_pass(tmp_path: Path) -> None:
    expected = "audit: 1 packages, 0 known vulnerabilities, according to pypi"
    assert audit(tmp_path, pypi=[HARMLESS]) == (0, [expected])


def test_a_package_that_the_source_does_not_know_is_named(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, pypi=[HARMLESS, UNKNOWN])
    assert code == 0
    assert lines[0] == "redis: not checked: Dependency not found on PyPI"


def test_a_second_source_is_asked_if_the_first_knows_no_package(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, pypi=[UNKNOWN], osv=[VULNERABLE])
    assert code == 1
    assert lines[1].startswith("urllib3 2.8.0: PYSEC-2026-1")


def test_the_audit_is_skipped_and_says_so_if_no_source_responds(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, pypi=[UNKNOWN], osv=None)
    assert code == 0
    assert lines == [
        "audit: pypi does not respond: it has advisories of no package",
        "audit: osv does not respond: ConnectionError: HTTPSConnectionPool",
        "audit: no advisory source reachable: skipped",
    ]


LONG_MODULE = "pass\n" * 601
LONG_FUNCTION = "\ndef work():\n" + "    pass\n" * 60
VERSIONS = "models/migrations/versions"


def folder(path: str, modules: int) -> dict[str, str]:
    names = ["__init__", *(f"module_{number}" for number in range(modules))]
    return {f"{path}/{name}.py": "pass\n" for name in names}


def problems(root: Path, project: dict[str, str]) -> list[str]:
    """Return what the tool finds in a folder with these modules, with paths below the folder."""
    for path, text in project.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return [problem.replace(f"{root}/", "") for problem in sizes.find_problems(root)]


@pytest.mark.parametrize(
    "project",
    [
        folder("worker", 20)
        | {"worker/module_0.py": LONG_MODULE[5:], "worker/module_1.py": LONG_FUNCTION[:-9]},
        folder("worker", 10) | folder("worker/rules", 10),
        folder(VERSIONS, 21) | {f"{VERSIONS}/module_0.py": LONG_MODULE},
        {".venv/long.py": LONG_MODULE},
    ],
    ids=[
        "at every limit",
        "subfolders count by themselves",
        "migrations",
        "outside of the project",
    ],
)
def test_a_project_within_its_limits_passes(tmp_path: Path, project: dict[str, str]) -> None:
    assert problems(tmp_path, project) == []


@pytest.mark.parametrize(
    ("project", "problem"),
    [
        ({"models/a.py": LONG_MODULE}, "models/a.py:1: 601 lines, over 600: split it by topic"),
        ({"tools/a.py": LONG_FUNCTION}, "tools/a.py:2: work has 61 lines, over 60"),
        (
            {"tools/a.py": f"\nasync {LONG_FUNCTION[1:]}"},
            "tools/a.py:2: work has 61 lines, over 60",
        ),
        *(
            (folder(path, 21), f"{path}: 21 modules, over 20: group them in folders")
            for path in ("worker", "worker/proof/verify", "tests/unit/rules")
        ),
    ],
)
def test_what_is_too_large_is_named(tmp_path: Path, project: dict[str, str], problem: str) -> None:
    assert problems(tmp_path, project) == [problem]


def test_every_problem_is_named(tmp_path: Path) -> None:
    project = folder("bench", 21) | {"tools/a.py": LONG_FUNCTION + LONG_MODULE}
    places = [line.partition(": ")[0] for line in problems(tmp_path, project)]
    assert places == ["bench", "tools/a.py:1", "tools/a.py:2"]


def test_the_sizes_of_the_core_and_of_each_feature_are_printed() -> None:
    printed = {line.split()[0]: line for line in sizes.package_sizes(ROOT)}
    assert printed.keys() >= {"valetkey", "models", "worker", "core", *NAMES}
    assert "hooks: released, given_back; needs: webhooks" in printed["uses"]


def test_an_issuing_process_imports_nothing_that_prints_to_a_terminal() -> None:
    printed, found = sizes.issuing_process()
    assert printed.startswith("issuing")
    assert found == []
