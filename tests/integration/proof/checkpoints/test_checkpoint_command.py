"""`audit checkpoint`: what it signs, refuses and prints; and the checks of `doctor` on it."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text

from models import TreeHead
from tests.integration.conftest import ReplaceTenants
from tests.integration.proof.checkpoints.conftest import Issue
from tests.support.cli.live_doctor import doctor_checks
from tests.support.cli.operator import ON_SQLITE, json_lines, json_rows, refusal
from tests.support.cli.operator import run_audit as run
from tests.support.crypto.audit_proofs import tamper
from worker.proof.checkpoint_format import CheckpointText, SignerKey, verify_note
from worker.proof.proof_monitoring import checkpoint_checks
from worker.proof.proof_settings import ProofSettings
from worker.rules.tenant_config import TenantConfig

ACME = ("checkpoint", "--tenant", "acme")


def test_a_checkpoint_signs_the_size_and_root_of_each_tree(key: SignerKey, issue: Issue) -> None:
    issue()
    issue(items=3)
    rows = {row["tenant"]: row for row in json_rows(run("checkpoint", "--json"))}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"acme": "signed", "~config": "signed"}
    checkpoint = CheckpointText.parse(verify_note(rows["acme"]["note"], [key.verifier]))
    assert checkpoint.origin == "audit.example.com/valetkey/acme"
    assert (checkpoint.size, checkpoint.root.hex()) == (3, rows["acme"]["root"])


def test_a_tree_that_has_not_grown_is_not_signed_again(issue: Issue, engine: Engine) -> None:
    issue()
    first, second = (json_rows(run(*ACME, "--json")) for _ in range(2))
    assert second == [first[0] | {"state": "unchanged"}]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM checkpoints")) == 1


def test_a_tree_that_has_grown_gets_another_checkpoint(issue: Issue) -> None:
    sizes = []
    for items in (1, 5, 2):
        issue(items=items)
        (row,) = json_rows(run(*ACME, "--json"))
        sizes.append((row["state"], row["size"]))
    assert sizes == [("signed", 1), ("signed", 4), ("signed", 5)]


def test_the_newest_checkpoint_is_written_to_a_file(
    key: SignerKey, issue: Issue, tmp_path: Path
) -> None:
    issue()
    path = tmp_path / "acme.checkpoint"
    for _ in range(2):  # also if the tree has not grown
        result = run(*ACME, "--out", str(path))
        assert (result.exit_code, result.output) == (0, "")
        assert verify_note(path.read_text(), [key.verifier])
    assert run(*ACME, "--out", "-").stdout == path.read_text()
    assert [file.name for file in tmp_path.glob(".*")] == []


UPDATE = "UPDATE checkpoints SET"
REWRITTEN = {
    "a leaf was changed": [  # which the edge of the checkpoint would hide
        f"{UPDATE} edge = NULL",
        "UPDATE leaves SET hash = {hash} WHERE leaf_number = 1 AND {acme}",
    ],
    "a leaf after the checkpoint was changed": [
        "UPDATE leaves SET hash = {hash} WHERE leaf_number = 4 AND {acme}"
    ],
    "a leaf was removed": ["DELETE FROM leaves WHERE leaf_number = 4 AND {acme}"],
    "the head was changed": ["UPDATE tree_heads SET edge = {hash}, size = 8 WHERE {acme}"],
    "the log was shortened": [
        "DELETE FROM leaves WHERE leaf_number > 0 AND {acme}",
        "UPDATE tree_heads SET size = 1, edge = {first} WHERE {acme}",
    ],
    "the log was removed": [
        "DELETE FROM leaves WHERE {acme}",
        "DELETE FROM tree_heads WHERE {acme}",
    ],
    "the checkpoint's root was changed": [f"{UPDATE} root = {{hash}} WHERE {{acme}}"],
    "the checkpoint's size was changed": [f"{UPDATE} size = 2 WHERE {{acme}}"],
    "the checkpoint's note was changed": [
        f"{UPDATE} note = replace(note, 'acme', 'emca') WHERE {{acme}}"
    ],
}


@ON_SQLITE
@pytest.mark.parametrize("change", REWRITTEN)
def test_a_log_that_does_not_continue_its_checkpoint_is_not_signed(
    issue: Issue, engine: Engine, change: str
) -> None:
    for signs in (False, False, True, False, False, False):
        issue(signs=signs)
    values = {"hash": "zeroblob(32)", "acme": "tenant = 'acme'"}
    values["first"] = "(SELECT hash FROM leaves WHERE tenant = 'acme')"
    tamper(engine, *(statement.format(**values) for statement in REWRITTEN[change]))
    result = run("checkpoint", "--json")
    assert result.exit_code == 1
    rows = {row["tenant"]: row for row in json_lines(result)}
    assert (rows["acme"]["state"], rows["acme"]["note"]) == ("refused", None)
    assert rows["~config"]["state"] == "unchanged"
    assert "Error: not signed: acme: " in result.stderr
    with engine.connect() as connection:
        query = "SELECT count(*) FROM checkpoints WHERE tenant = 'acme'"
        assert connection.scalar(text(query)) == 1


def test_a_log_that_was_rewritten_from_its_start_is_not_signed(
    issue: Issue, engine: Engine
) -> None:
    issue()
    issue(signs=True)
    # Leaves, head and the checkpoint's edge fit together, but were not signed.
    tamper(
        engine,
        "UPDATE leaves SET hash = (SELECT edge FROM checkpoints WHERE tenant = '~config')"
        " WHERE tenant = 'acme'",
        f"{UPDATE} edge = NULL WHERE tenant = 'acme'",
    )
    issue()
    result = run(*ACME)
    assert (result.exit_code, "they were changed or removed" in result.stderr) == (1, True)


@ON_SQLITE
def test_checkpoints_of_a_key_that_was_not_replaced_are_not_continued_by_another(
    key: SignerKey, issue: Issue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(signs=True)
    issue()
    new = str(tmp_path / "new.key")
    assert run("key", "--new", new).stdout.strip() != str(key.verifier)
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", new)
    result = run(*ACME, "--json")
    assert (result.exit_code, json_lines(result)[0]["state"]) == (1, "refused")
    assert "is not signed by audit.example.com/valetkey" in result.stderr


@pytest.mark.usefixtures("key")
def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    stored = (tmp_path / "audit.key").read_bytes()
    refused = refusal(run("key", "--new", str(tmp_path / "audit.key")))
    assert "a key is never overwritten: choose another name" in refused
    assert (tmp_path / "audit.key").read_bytes() == stored


def test_a_removed_tenant_and_its_successor_have_trees_of_their_own(
    issue: Issue, replace_tenants: ReplaceTenants, tmp_path: Path
) -> None:
    issue()
    replace_tenants()
    # Only the first has leaves.
    assert run(*ACME, "--out", str(tmp_path / "out")).exit_code == 0
    rows = json_rows(run("checkpoint", "--tenant", "acme~1", "--json"))
    assert [row["tenant"] for row in rows] == ["acme"]


@ON_SQLITE
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
@pytest.mark.usefixtures("issue")
def test_a_wrong_use_is_refused(words: list[str], message: str) -> None:
    assert message in refusal(run("checkpoint", *words))


@ON_SQLITE
def test_an_output_that_cannot_be_written_is_refused(issue: Issue, tmp_path: Path) -> None:
    issue()
    result = run(*ACME, "--out", str(tmp_path / "missing" / "file"))
    assert (result.exit_code, "No such file or directory" in result.stderr) == (2, True)


@ON_SQLITE
@pytest.mark.usefixtures("at_clock")
def test_without_a_key_nothing_is_signed() -> None:
    error = refusal(run("checkpoint"))
    assert "VALETKEY_AUDIT_KEY_FILE is not set" in error
    assert "audit key --new audit.key" in error


@ON_SQLITE
def test_a_key_that_others_can_read_is_refused(issue: Issue, tmp_path: Path) -> None:
    issue()
    (tmp_path / "audit.key").chmod(0o644)
    assert "mode 0644" in refusal(run("checkpoint"))


@pytest.mark.usefixtures("key", "at_clock")
def test_a_head_without_leaves_is_no_tree(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(TreeHead).values(tenant="a", size=0, edge=b""))
    assert json_rows(run("checkpoint", "--json")) == []


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Found = list[tuple[str, str]]


def check() -> Found:
    """The state and message of each check, without the database."""
    found = checkpoint_checks(ProofSettings(), TenantConfig(), {"AUDIT_SECRET": SECRET})
    return [(check.state, check.message) for check in found]


def audit_checks() -> Found:
    """The state and message of each check of `doctor` on the audit log."""
    checks = doctor_checks("audit", "--offline")
    return [(each["state"], each["message"]) for each in checks]


def test_a_service_without_a_key_signs_nothing_by_choice() -> None:
    assert check() == [("ok", "VALETKEY_AUDIT_KEY_FILE is not set, so no checkpoint is signed")]


def test_destinations_without_a_key_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", "folder")
    assert [state for state, _ in check()] == ["warn"]


@pytest.mark.usefixtures("key")
def test_a_key_is_named_with_the_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = "https://hooks.example.com/x?token=s3cret"
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", f"folder, {hook}")
    monkeypatch.setenv("VALETKEY_AUDIT_WEBHOOK_SECRET", "env:AUDIT_SECRET")
    text = "signs checkpoints; published to: folder, webhook hooks.example.com"
    assert check() == [("ok", f"audit.example.com/valetkey {text}")]


@pytest.mark.parametrize(
    ("destination", "secret", "message"),
    [
        ("s3://nosuch/x", "env:AUDIT_SECRET", "s3://nosuch/x/: there is no bucket profile nosuch"),
        ("https://h.example/x", None, "VALETKEY_AUDIT_WEBHOOK_SECRET is not set"),
        ("https://h.example/x", "env:NOSUCH", "env:NOSUCH is not set in the environment"),
    ],
)
@pytest.mark.usefixtures("key")
def test_a_destination_that_cannot_work_fails(
    monkeypatch: pytest.MonkeyPatch, destination: str, secret: str | None, message: str
) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", destination)
    if secret is not None:
        monkeypatch.setenv("VALETKEY_AUDIT_WEBHOOK_SECRET", secret)
    (_, (state, text)) = check()
    assert state == "fail"
    assert message in text


def test_a_key_that_cannot_be_used_fails(
    key: SignerKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "other")
    ((state, text),) = check()
    assert state == "fail"
    assert f"the key in {tmp_path / 'audit.key'} has the name {key.name}" in text
    (tmp_path / "audit.key").write_text(key.dump()[:-4])
    ((state, text),) = check()
    assert state == "fail"
    assert "is no key of checkpoints" in text
    assert key.dump()[-20:-4] not in text


def test_failures_are_reported_until_they_are_mended(
    issue: Issue, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.write_text("a file")
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", f"{folder},{tmp_path / 'good'}")
    issue()
    result = run("checkpoint")
    assert result.exit_code == 1
    assert f"not published: acme to {folder}" in result.stderr
    warnings = [text for state, text in audit_checks() if state == "warn"]
    assert len(warnings) == 2  # of acme and of the config
    assert warnings[0].startswith(f"checkpoints of acme do not reach {folder}: ")
    folder.unlink()
    assert run("checkpoint").exit_code == 0
    assert [state for state, _ in audit_checks()] == ["ok"]
    tamper(engine, "UPDATE tree_heads SET size = 0 WHERE tenant = 'acme'")
    assert run("checkpoint").exit_code == 1
    ((state, text),) = [each for each in audit_checks() if each[0] != "ok"]
    assert state == "fail"
    assert "the log of acme is not signed: the tree has 0 leaves" in text
