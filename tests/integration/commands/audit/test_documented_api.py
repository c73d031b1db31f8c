"""The example of the Python API in docs/audit.md runs, and prints what the log contains."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.builders.audit_rows import AuditedBatch, batch_id
from worker import clock
from worker.db.engine import write_transaction

PAGE = (Path(__file__).parents[4] / "docs" / "audit.md").read_text(encoding="utf-8")
PROGRAM = re.findall(r"^```python\n# audit_script.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_documented_script_prints_refusals_counts_and_requesters(
    engine: Engine,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    now = clock.now()
    with write_transaction(engine) as connection:
        AuditedBatch(1, ["a", "../b"], {1: "key_traversal"}, decided_at=now).write(connection)
    (program,) = PROGRAM
    exec(compile(program, "audit_script.py", "exec"), {})  # noqa: S102 - the page's own code
    refusal, issued, refused, requester, *stories = capsys.readouterr().out.splitlines()
    assert refusal.endswith("billing ../b key_traversal")
    assert issued == f"('{now:%Y-%m-%d}', None) 1 0 0"
    assert refused == f"('{now:%Y-%m-%d}', 'key_traversal') 0 1 0"
    assert requester == "billing 2"
    assert [story.split()[:2] for story in stories] == [[f"{batch_id(1)}.{n}", "2"] for n in (0, 1)]
