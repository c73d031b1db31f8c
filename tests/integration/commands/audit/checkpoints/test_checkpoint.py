"""Tests `audit checkpoint`: what it signs, what it refuses to sign, and what it prints."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text

from models import TreeHead
from tests.integration.commands.audit.checkpoints.conftest import Issue, Run
from tests.integration.conftest import ReplaceTenants
from tests.support.cli.operator import json_rows
from tests.support.crypto.audit_proofs import tamper
from worker.core.tree.checkpoint_text import CheckpointText
from worker.core.tree.signed_note import SignerKey, verify_note


def test_a_checkpoint_signs_the_size_and_root_of_each_tree(
    run: Run, key: SignerKey, issue: Issue
) -> None:
    issue()
    issue(items=3)
    rows = {row["tenant"]: row for row in json_rows(run("checkpoint", "--json"))}
    assert {name: row["state"] for name, row in rows.items()} == {
        "acme": "signed",
        "~config": "signed",
    }
    checkpoint = CheckpointText.parse(verify_note(rows["acme"]["note"], [key.verifier]))
    assert checkpoint.origin == "audit.example.com/valetkey/acme"
    assert (checkpoint.size, checkpoint.root.hex()) == (3, rows["acme"]["root"])


def test_a_tree_that_has_not_grown_is_not_signed_again(
    run: Run, key: SignerKey, issue: Issue, engine: Engine
) -> None:
    del key
    issue()
    first = json_rows(run("checkpoint", "--tenant", "acme", "--json"))
    second = json_rows(run("checkpoint", "--tenant", "acme", "--json"))
    assert second == [first[0] | {"state": "unchanged"}]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM checkpoints")) == 1


def test_a_tree_that_has_grown_gets_another_checkpoint(
    run: Run, key: SignerKey, issue: Issue
) -> None:
    del key
    sizes = []
    for items in (1, 5, 2):
        issue(items=items)
        (row,) = json_rows(run("checkpoint", "--tenant", "acme", "--json"))
        sizes.append((row["state"], row["size"]))
    assert sizes == [("signed", 1), ("signed", 4), ("signed", 5)]


def test_the_newest_checkpoint_is_written_to_a_file(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path
) -> None:
    issue()
    path = tmp_path / "acme.checkpoint"
    for _ in range(2):  # also if the tree has not grown
        result = run("checkpoint", "--tenant", "acme", "--out", str(path))
        assert (result.exit_code, result.output) == (0, "")
        assert verify_note(path.read_text(), [key.verifier])
    assert run("checkpoint", "--tenant", "acme", "--out", "-").stdout == path.read_text()
    assert [file.name for file in tmp_path.glob(".*")] == []


REWRITTEN = {
    "a leaf was changed": ["UPDATE leaves SET hash = {hash} WHERE leaf_number = 1 AND {acme}"],
    "a leaf after the checkpoint was changed": [
        "UPDATE leaves SET hash = {hash} WHERE leaf_number = 4 AND {acme}"
    ],
    "a leaf was removed": ["DELETE FROM leaves WHERE leaf_number = 4 AND {acme}"],
    "the head was changed": ["UPDATE tree_heads SET edge = {hash}, size = 8 WHERE {acme}"],
    "the log was shortened": [
        "DELETE FROM leaves WHERE leaf_number > 0 AND {acme}",
        (
            "UPDATE tree_heads SET size = 1, edge = (SELECT hash FROM leaves WHERE {acme})"
            " WHERE {acme}"
        ),
    ],
    "the log was removed": [
        "DELETE FROM leaves WHERE {acme}",
        "DELETE FROM tree_heads WHERE {acme}",
    ],
    "the checkpoint's root was changed": ["UPDATE checkpoints SET root = {hash} WHERE {acme}"],
    "the checkpoint's size was changed": ["UPDATE checkpoints SET size = 2 WHERE {acme}"],
    "the checkpoint's note was changed": [
        "UPDATE checkpoints SET note = replace(note, 'acme', 'emca') WHERE {acme}"
    ],
}


@pytest.mark.parametrize("change", REWRITTEN)
def test_a_log_that_does_not_continue_its_checkpoint_is_not_signed(
    run: Run, key: SignerKey, issue: Issue, engine: Engine, change: str
) -> None:
    del key
    for _ in range(3):
        issue()
    assert run("checkpoint").exit_code == 0
    for _ in range(3):
        issue()
    literal = {"sqlite": "zeroblob(32)", "postgresql": "decode(repeat('00', 32), 'hex')"}
    values = {"hash": literal[engine.dialect.name], "acme": "tenant = 'acme'"}
    if change == "a leaf was changed":  # what the edge of the checkpoint would hide
        tamper(engine, "UPDATE checkpoints SET edge = NULL")
    tamper(engine, *(statement.format(**values) for statement in REWRITTEN[change]))
    result = run("checkpoint", "--json")
    assert result.exit_code == 1
    rows = {row["tenant"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert (rows["acme"]["state"], rows["acme"]["note"]) == ("refused", None)
    assert rows["~config"]["state"] == "unchanged"
    assert "Error: not signed: acme: " in result.stderr
    with engine.connect() as connection:
        query = "SELECT count(*) FROM checkpoints WHERE tenant = 'acme'"
        assert connection.scalar(text(query)) == 1


def test_a_log_that_was_rewritten_from_its_start_is_not_signed(
    run: Run, key: SignerKey, issue: Issue, engine: Engine
) -> None:
    del key
    for _ in range(2):
        issue()
    assert run("checkpoint").exit_code == 0
    # Leaves, head and the checkpoint's edge fit together, but were not signed.
    tamper(
        engine,
        "UPDATE leaves SET hash = (SELECT edge FROM checkpoints WHERE tenant = '~config')"
        " WHERE tenant = 'acme'",
        "UPDATE checkpoints SET edge = NULL WHERE tenant = 'acme'",
    )
    issue()
    result = run("checkpoint", "--tenant", "acme")
    assert result.exit_code == 1
    assert "they were changed or removed" in result.stderr


def test_checkpoints_of_a_replaced_key_are_trusted(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue()
    assert run("checkpoint").exit_code == 0
    issue()
    new = tmp_path / "new.key"
    created = run("key", "--new", str(new), "--replaces", str(tmp_path / "audit.key"))
    assert created.stdout.strip() != str(key.verifier)
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(new))
    (row,) = json_rows(run("checkpoint", "--tenant", "acme", "--json"))
    assert row["state"] == "signed"


def test_a_checkpoint_of_an_unknown_key_is_not_continued(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del key
    issue()
    assert run("checkpoint").exit_code == 0
    issue()
    assert run("key", "--new", str(tmp_path / "new.key")).exit_code == 0
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(tmp_path / "new.key"))
    result = run("checkpoint", "--tenant", "acme")
    assert result.exit_code == 1
    assert "is not signed by audit.example.com/valetkey" in result.stderr


def test_a_removed_tenant_and_its_successor_have_trees_of_their_own(
    run: Run, key: SignerKey, issue: Issue, replace_tenants: ReplaceTenants, tmp_path: Path
) -> None:
    del key
    issue()
    replace_tenants()
    issue_again = run("checkpoint", "--tenant", "acme", "--out", str(tmp_path / "out"))
    assert issue_again.exit_code == 0  # only the first has leaves
    rows = json_rows(run("checkpoint", "--tenant", "acme~1", "--json"))
    assert [row["tenant"] for row in rows] == ["acme"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "it needs --tenant"),
        (["--tenant", "acme", "--out", "-", "--json"], "and no format"),
        (["--tenant", "amce"], "did you mean 'acme'?"),
        (["--tenant", "acme"], "nothing was recorded for 'acme' yet"),
        (["--tenant", ""], "there is no tenant ''"),
    ],
)
@pytest.mark.usefixtures("key", "issue")
def test_a_wrong_use_is_refused(run: Run, words: list[str], message: str) -> None:
    result = run("checkpoint", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_an_output_that_cannot_be_written_is_refused(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path
) -> None:
    del key
    issue()
    out = str(tmp_path / "missing" / "file")
    result = run("checkpoint", "--tenant", "acme", "--out", out)
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


@pytest.mark.usefixtures("engine")
def test_without_a_key_nothing_is_signed(run: Run) -> None:
    result = run("checkpoint")
    assert result.exit_code == 2
    assert "VALETKEY_AUDIT_KEY_FILE is not set" in result.stderr
    assert "audit key --new FILE" in result.stderr


def test_a_key_that_others_can_read_is_refused(
    run: Run, key: SignerKey, issue: Issue, tmp_path: Path
) -> None:
    del key
    issue()
    (tmp_path / "audit.key").chmod(0o644)
    result = run("checkpoint")
    assert result.exit_code == 2
    assert "mode 0644" in result.stderr


def test_a_head_without_leaves_is_no_tree(run: Run, key: SignerKey, engine: Engine) -> None:
    del key
    with engine.begin() as connection:
        connection.execute(insert(TreeHead).values(tenant="a", size=0, edge=b""))
    result = run("checkpoint", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
