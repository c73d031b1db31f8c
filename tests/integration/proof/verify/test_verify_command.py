"""`audit verify` as an auditor runs it: what it prints, what it needs, and what it refuses."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.audit_log.logs import KEY_NAME, GeneratedLog
from tests.support.audit_log.rebuilding import store_head
from tests.support.audit_log.stored_tables import KEYS, StoredTables
from tests.support.audit_log.trials import copied_file
from tests.support.cli.groups import audit
from worker.proof.checkpoint_format import SignerKey

Run = Callable[..., Result]
NOBODY = 65534


@pytest.fixture
def copy(log: GeneratedLog) -> Iterator[str]:
    with copied_file(log) as url:
        yield url


@pytest.fixture
def run(copy: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `audit verify` with options."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", copy)
    name = "python -m worker audit"
    return lambda *words: CliRunner().invoke(audit, ["verify", *words], prog_name=name)


@pytest.fixture
def stored(copy: str) -> Iterator[StoredTables]:
    with closing(StoredTables(copy)) as tables:
        yield tables


def forget_checkpoints(stored: StoredTables) -> None:
    stored.execute("DELETE FROM checkpoints")


def test_a_sound_log_is_verified_with_its_numbers(run: Run, stored: StoredTables) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Nothing differs. Verified: ")
    for table, noun in {"grants": "items", "chunks": "chunks", "leaves": "leaves"}.items():
        assert f" {len(stored.rows(table)):,} {noun}" in result.stdout


def test_json_has_the_summary(run: Run, stored: StoredTables) -> None:
    summary = json.loads(run("--json").stdout)
    assert (summary["type"], summary["sound"]) == ("summary", True)
    assert summary["items"] == len(stored.rows("grants"))
    assert summary["checkpoints"] == len(stored.rows("checkpoints"))
    assert summary["trees"] == len(stored.rows("tree_heads"))


def test_without_a_key_it_says_that_no_signature_was_verified(run: Run, log: GeneratedLog) -> None:
    assert "No signature was verified" in run().stderr
    assert run("--key", str(log.signer.verifier)).stderr == ""


def test_another_key_finds_the_checkpoints_untrusted(run: Run) -> None:
    result = run("--key", str(SignerKey.generate(KEY_NAME).verifier))
    assert result.exit_code == 1
    assert "cannot be trusted" in result.stdout


def test_a_changed_row_is_printed_with_its_place(run: Run, stored: StoredTables) -> None:
    row = stored.rows("grants")[-1]
    batch = stored.rows("batches", "batch_number = ?", row["batch_number"])[0]
    stored.update("grants", row, object_key="acme/other")
    result = run()
    assert result.exit_code == 1
    assert f"tenant {batch['tenant']}, batch {batch['batch_id']}" in result.stdout
    assert "It does NOT verify" in result.stdout
    problem = json.loads(run("--json").stdout.splitlines()[0])
    assert (problem["type"], problem["batch"]) == ("problem", batch["batch_id"])


def test_only_the_first_problem_is_printed_unless_asked_to_keep_going(
    run: Run, stored: StoredTables
) -> None:
    for row in stored.rows("grants", "item_number = 0")[:3]:
        stored.update("grants", row, object_key="acme/other")
    assert run().stdout.count("differ from what leaf") == 1
    assert run("--keep-going").stdout.count("differ from what leaf") == 3


@pytest.mark.parametrize("column", ["size", "edge"])
def test_a_head_that_is_not_that_of_the_leaves_is_found_without_any_checkpoint(
    run: Run, stored: StoredTables, column: str
) -> None:
    forget_checkpoints(stored)
    head = stored.rows("tree_heads", "tenant = 'acme'")[0]
    value = {"size": head["size"] - 1, "edge": bytes(len(head["edge"]))}[column]
    stored.update("tree_heads", head, **{column: value})
    result = run()
    assert result.exit_code == 1
    assert "tenant acme" in result.stdout


def test_a_leaf_that_is_not_in_the_tree_is_found_without_any_checkpoint(
    run: Run, stored: StoredTables
) -> None:
    forget_checkpoints(stored)
    leaves = stored.rows("leaves", "tenant = 'acme'")
    store_head(stored, "acme", len(leaves) - 1)
    assert f"leaf {len(leaves) - 1}: is not in the tree" in run().stdout


def test_a_chunk_that_no_leaf_covers_is_named(run: Run, stored: StoredTables) -> None:
    leaves = stored.rows("leaves", "tenant = 'acme'")
    added = next(leaf for leaf in reversed(leaves) if leaf["kind"] == "chunk")
    forget_checkpoints(stored)
    for leaf in leaves:
        stored.delete("leaves", leaf)
    kept = [leaf for leaf in leaves if leaf != added]
    for number, leaf in enumerate(kept):
        stored.insert("leaves", leaf | {"leaf_number": number})
    store_head(stored, "acme", len(kept))
    result = run()
    assert result.exit_code == 1
    assert result.stdout.startswith("chunks: tenant acme, batch ")
    assert ": no leaf covers it\n" in result.stdout
    assert "Next: docs/runbooks/log.md." in result.stdout


def test_checkpoints_in_files_show_that_a_log_was_cut_with_its_checkpoints(
    run: Run, stored: StoredTables, log: GeneratedLog, tmp_path: Path
) -> None:
    (tmp_path / "acme.checkpoint").write_text(log.notes["acme"])
    words = ("--tenant", "acme", "--checkpoint", str(tmp_path))
    assert run(*words).exit_code == 0
    for table in {*KEYS, "usage", "stored_objects", "reservations"} - {"config_changes"}:
        stored.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
    cut = run("--tenant", "acme")
    assert cut.exit_code == 0, cut.output
    result = run(*words)
    assert (result.exit_code, "the tree has 0 leaves" in result.stdout) == (1, True), result.output


def test_a_given_checkpoint_that_the_database_lacks_is_named(
    run: Run, stored: StoredTables, log: GeneratedLog, tmp_path: Path
) -> None:
    (tmp_path / "acme.checkpoint").write_text(log.notes["acme"])
    words = ("--key", str(log.signer.verifier), "--checkpoint", str(tmp_path))
    assert "lacks" not in run(*words).output
    forget_checkpoints(stored)
    result = run(*words)
    assert result.exit_code == 0, result.output
    size = log.notes["acme"].splitlines()[1]
    line = next(line for line in result.stdout.splitlines() if "the database lacks it" in line)
    assert line.startswith(
        f"The checkpoint of size {size} in {tmp_path}/acme.checkpoint, signed by"
    )
    notice = json.loads(run(*words, "--json").stdout.splitlines()[0])
    values = [notice[name] for name in ("type", "tenant", "size", "file", "text")]
    assert values == ["notice", "acme", int(size), f"{tmp_path}/acme.checkpoint", line]
    assert "lacks" not in run(*words, "--tenant", "globex").output


def test_only_the_tenant_is_verified(run: Run, stored: StoredTables) -> None:
    batch = stored.rows("batches", "tenant = 'globex'")[0]
    stored.update("batches", batch, reason="another")
    assert [run("--tenant", name).exit_code for name in ("acme", "globex")] == [0, 1]


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("9999_later", "those of a later release"),
        ("0001_tables_8", "a checkout older than 0.1.0 created its tables"),
    ],
)
def test_tables_of_another_release_are_not_called_changed(
    run: Run, stored: StoredTables, revision: str, message: str
) -> None:
    stored.execute(f"UPDATE alembic_version SET version_num = '{revision}'")  # noqa: S608 - our own
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tenant", "acne"), "did you mean 'acme'?"),
        (("--key", "no key"), "`audit key` prints it"),
        (("--checkpoint", "absent"), "does not exist"),
    ],
)
def test_a_wrong_use_is_named(run: Run, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_a_file_that_is_no_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk, eggs")
    for path in (tmp_path, tmp_path / "notes.txt"):
        result = run("--checkpoint", str(path))
        assert (result.exit_code, "is no checkpoint" in result.stderr) == (2, True), result.output


@pytest.fixture
def read_only_copy(log: GeneratedLog) -> Iterator[Path]:
    """A copy of the log that nobody may write, in a folder that nobody may write."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "copy.db"
    shutil.copyfile(log.url.removeprefix("sqlite:///"), path)
    path.chmod(0o444)
    folder.chmod(0o555)
    yield path
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def _powerless(run: Run, read_only_copy: Path) -> Iterator[None]:  # noqa: ARG001 - made before
    """Give up the right of root to write everywhere, once the other fixtures are made."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.mark.usefixtures("_powerless")
def test_a_read_only_copy_in_a_read_only_folder_verifies(
    run: Run, monkeypatch: pytest.MonkeyPatch, read_only_copy: Path
) -> None:
    with pytest.raises(PermissionError):
        (read_only_copy.parent / "new").touch()
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{read_only_copy}")
    result = run()
    assert (result.exit_code, "Nothing differs" in result.stdout) == (0, True), result.output
