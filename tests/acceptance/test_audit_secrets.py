import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.acceptance.conftest import SECRET, Service
from tests.acceptance.test_secrets import SIGNATURE
from worker.__main__ import main
from worker.commands.audit.group import audit
from worker.commands.audit.report import report


def test_no_audit_report_holds_a_signature_or_a_secret(
    service: Service, signatures_of_grants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", service.stack.info.database_url)
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()  # a report ends before its second
    page = CliRunner().invoke(report, ["--until", soon, "--out", "-"]).stdout
    assert "acme/secret.txt" in page
    assert SIGNATURE.search(page) is None
    assert not [secret for secret in (*signatures_of_grants, SECRET) if secret in page]


def test_no_checkpoint_and_no_proof_holds_a_signature_or_a_secret(
    service: Service, signatures_of_grants: list[str], tmp_path: Path
) -> None:
    key_file, folder = tmp_path / "audit.key", tmp_path / "checkpoints"
    environ = {
        "VALETKEY_DATABASE_URL": service.stack.info.database_url,
        "VALETKEY_AUDIT_KEY_FILE": str(key_file),
        "VALETKEY_AUDIT_CHECKPOINTS": str(folder),
    }

    def audit(*words: str) -> str:
        result = CliRunner().invoke(main, ["audit", *words], env=environ)
        assert result.exit_code == 0, result.output
        return result.stdout

    printed = [audit("key", "--new", str(key_file)), audit("checkpoint", "--json")]
    grants = audit("list", "--key", "acme/secret.txt", "--json").splitlines()
    printed += [audit("prove", json.loads(line)["grant"]) for line in grants]
    printed += [path.read_text() for path in folder.rglob("*.checkpoint")]
    assert len(printed) > 4
    words = (*signatures_of_grants, SECRET, key_file.read_text()[-20:].strip())
    assert [word for word in words if word in "\n".join(printed)] == []
    assert SIGNATURE.search("\n".join(printed)) is None


def test_no_metric_holds_a_signature_a_secret_or_an_object_key(
    service: Service, signatures_of_grants: list[str]
) -> None:
    info = service.stack.info
    environ = {
        "VALETKEY_DATABASE_URL": info.database_url,
        "VALETKEY_BROKER_URL": info.broker_url,
        "VALETKEY_RESULT_URL": info.result_url,
    }
    result = CliRunner().invoke(main, ["metrics"], env=environ)
    assert re.search(r'valetkey_grants{kind="multipart",.*tenant="acme".*} [1-9]', result.output)
    assert SIGNATURE.search(result.output) is None
    for text in (*signatures_of_grants, SECRET, "secret.txt", "secret.bin", "://"):
        assert text not in result.output


@pytest.mark.parametrize("name", ["csv", "jsonl", "ocsf", "parquet"])
def test_no_export_holds_a_signature_or_a_secret(
    service: Service,
    signatures_of_grants: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", service.stack.info.database_url)
    out = tmp_path / "out"
    result = CliRunner().invoke(audit, ["export", "--format", name, "--out", str(out)])
    text = str(pq.read_table(out).to_pylist()) if name == "parquet" else out.read_text()
    exported = text + result.output
    assert "acme/secret.txt" in exported
    assert SIGNATURE.search(exported) is None
    assert not [secret for secret in (*signatures_of_grants, SECRET) if secret in exported]
