"""The audit of the lock files, with a pip-audit that returns what each test needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.docs.command_lines import ROOT

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
    completed = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
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
