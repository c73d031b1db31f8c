"""Tests what `audit prove` refuses to prove."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.integration.commands.audit.checkpoints.conftest import Issue, Run
from tests.support.crypto.audit_proofs import tamper
from worker.core.tree.signed_note import SignerKey


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a GRANT, or a checkpoint with --since"),
        (["{batch}.0", "--since", "{empty}"], "give a GRANT, or a checkpoint with --since"),
        (["{batch}"], "BATCH.NUMBER"),
        (["{batch}.x"], "BATCH.NUMBER"),
        (["{batch}.-1"], "BATCH.NUMBER"),
        (["{batch}.9999999999"], "BATCH.NUMBER"),
        (["{batch}.3"], "the batch has 3 items: the last is 2"),
        (["{batch}.2"], "its chunk is not decided yet"),
        (["no-such-batch.0"], "no batch with this id"),
        (["amce/{batch}.0"], "did you mean 'acme'?"),
        (["~config/{batch}.0"], "no batch with this id"),
        (["{newer}.0"], "newer than the newest checkpoint of acme: run"),
        (["--since", "missing"], "cannot be read: No such file"),
        (["--since", "{empty}"], "is no checkpoint: it has no signature lines"),
        (["--since", "{binary}"], "is no checkpoint: it is not text"),
        (["--since", "{long}"], "is no checkpoint: it is too long"),
        (["--since", "{note}"], "is no checkpoint: its text is not the three lines"),
        (["--since", "{other}"], "no checkpoint of other.example.com/globex"),
        (["--since", "{origin}"], "of another log: other.example.com/acme"),
    ],
)
def test_what_cannot_be_proven_is_refused(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path, words: list[str], message: str
) -> None:
    root = base64.b64encode(bytes(32)).decode()
    values = {"batch": issue(items=3, chunks=1)}
    assert run("checkpoint").exit_code == 0
    values["newer"] = issue()
    contents = {
        "empty": b"",
        "binary": b"\xff" * 10,
        "long": b"x" * 100_000,
        "note": key.sign("a text\n").encode(),
        "other": key.sign(f"other.example.com/globex\n1\n{root}\n").encode(),
        "origin": key.sign(f"other.example.com/acme\n1\n{root}\n").encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        values[name] = str(tmp_path / name)
    result = run("prove", *(word.format(**values) for word in words))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_without_a_checkpoint_there_is_no_proof(run: Run, key: SignerKey, issue: Issue) -> None:
    del key
    result = run("prove", f"{issue()}.0")
    assert result.exit_code == 2
    assert "has no checkpoint: run `python -m worker audit checkpoint`" in result.stderr


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE grants SET object_key = 'acme/other.pdf'", "rows or leaves were changed"),
        ("UPDATE chunks SET expires_in = 1", "rows or leaves were changed"),
        ("UPDATE batches SET reason = NULL", "rows or leaves were changed"),
        (
            "UPDATE leaves SET hash = (SELECT hash FROM leaves WHERE tenant = '~config')",
            "rows or leaves were changed",
        ),
        ("DELETE FROM leaves WHERE leaf_number = 0", "are missing that its checkpoint signs"),
    ],
)
def test_a_changed_log_is_not_proven(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, statement: str, message: str
) -> None:
    del key
    issue()
    batch = issue()
    assert run("checkpoint").exit_code == 0
    tamper(engine, statement)
    result = run("prove", f"{batch}.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_log_that_does_not_continue_a_checkpoint_is_named(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, since: Callable[[], str]
) -> None:
    del key
    issue(items=5)
    path = since()
    issue()
    assert run("checkpoint").exit_code == 0
    tamper(engine, "UPDATE leaves SET hash = root FROM checkpoints WHERE leaf_number = 2")
    result = run("prove", "--since", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the log was rewritten" in result.stderr


def test_a_database_that_is_older_than_a_checkpoint_is_named(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, since: Callable[[], str]
) -> None:
    del key
    issue()
    assert run("checkpoint").exit_code == 0
    issue()
    path = since()
    tamper(engine, "DELETE FROM checkpoints WHERE size = 2")
    result = run("prove", "--since", path)
    assert result.exit_code == 1
    assert "leaves were removed, or this is an older copy" in result.stderr


def test_pruned_rows_are_no_longer_proven(
    run: Run, key: SignerKey, issue: Issue, engine: Engine
) -> None:
    del key
    batch = issue(items=2)
    assert run("checkpoint").exit_code == 0
    tamper(engine, "DELETE FROM grants")
    result = run("prove", f"{batch}.0")
    assert result.exit_code == 2
    assert "the rows of the grant were pruned" in result.stderr
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM leaves WHERE tenant = 'acme'")) == 1
