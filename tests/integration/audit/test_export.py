"""An export is complete or absent, and an interrupted one is continued by the same command."""

import csv
import json
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.cli.operator import ON_SQLITE, Run, json_rows, refusal, run_audit
from worker import clock
from worker.audit import audit_rows
from worker.audit.audit_rows import ChunkItems
from worker.base.database_engine import write_transaction
from worker.dev.embedded_servers import Storage, create_buckets
from worker.export import export_run
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.scripting.audit_log import AuditLog

ROWS = 20
MANIFEST = "audit/all.csv.manifest.json"


@pytest.fixture
def export(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audit_rows, "_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(export_run, "_SECONDS_PER_CHECKPOINT", -1)
    with write_transaction(engine) as connection:
        for number in range(1, ROWS // 2 + 1):
            AuditedBatch(number, [f"k/{number}", "=1"], {1: "key_traversal"}).write(connection)
    return partial(run_audit, "export")


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets the next export be interrupted after a number of blocks."""

    def arrange(blocks: int) -> None:
        with_blocks = audit_rows.stream_blocks

        def stopping(*arguments: Any) -> Iterator[list[ChunkItems]]:
            for number, block in enumerate(with_blocks(*arguments)):
                if number == blocks:
                    monkeypatch.setattr(export_run, "stream_blocks", with_blocks)
                    raise KeyboardInterrupt
                yield block

        monkeypatch.setattr(export_run, "stream_blocks", stopping)

    return arrange


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("valetkey.db")}


@pytest.mark.parametrize("name", ["csv", "jsonl", "ocsf"])
def test_an_interrupted_export_is_continued_by_the_same_command(
    export: Run, interrupt: Callable[[int], None], tmp_path: Path, name: str
) -> None:
    words = ["--format", name, "--since", "36500d ago", "--out"]
    assert export(*words, "whole").exit_code == 0
    interrupt(3)
    stopped = export(*words, "out")
    assert (stopped.exit_code, "same command" in stopped.stderr) == (130, True)
    partial_names = {"out.partial", "out.resume.json"}
    assert names(tmp_path) == {"whole", "whole.manifest.json", *partial_names}
    # What a killed process has written after its last checkpoint.
    with (tmp_path / "out.partial").open("ab") as file:
        file.write(b"half a row")
    finished = export(*words, "out")
    assert finished.exit_code == 0, finished.output
    whole = (tmp_path / "whole").read_bytes()
    assert (tmp_path / "out").read_bytes() == whole
    assert names(tmp_path) == {"whole", "whole.manifest.json", "out", "out.manifest.json"}
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert (manifest["rows"], manifest["sha256"]) == (ROWS, sha256(whole).hexdigest())
    assert f"out: {ROWS} rows (8 of them now)" in finished.stderr
    assert f"SHA-256: {sha256(whole).hexdigest()}" in finished.stderr


@pytest.fixture
def interrupted(export: Run, interrupt: Callable[[int], None]) -> Run:
    """An export that was interrupted after two blocks."""
    interrupt(2)
    assert export("--out", "out.csv").exit_code == 130
    return export


def test_rows_that_arrive_between_two_runs_are_left_out(
    interrupted: Run, engine: Engine, tmp_path: Path
) -> None:
    with write_transaction(engine) as connection:
        AuditedBatch(99, ["later"]).write(connection)
    assert interrupted("--out", "out.csv").exit_code == 0
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == ROWS + 1
    assert not [row for row in rows if "later" in row]


def test_an_interrupted_export_is_not_continued_with_other_options(
    interrupted: Run, tmp_path: Path
) -> None:
    words = ("--out", "out.csv", "--decision", "refused")
    error = refusal(interrupted(*words))
    assert "decisions" in error
    assert "--force" in error
    assert interrupted(*words, "--force").exit_code == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == ROWS // 2 + 1
    assert names(tmp_path) == {"out.csv", "out.csv.manifest.json"}


def test_a_partial_file_that_was_shortened_is_begun_anew(interrupted: Run, tmp_path: Path) -> None:
    (tmp_path / "out.csv.partial").write_bytes(b"")
    assert interrupted("--out", "out.csv").exit_code == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == ROWS + 1


def test_nothing_is_written_into_a_file_that_others_prepared(export: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    (tmp_path / "out.csv.partial").hardlink_to(tmp_path / "theirs")
    result = export("--out", "out.csv")
    assert result.exit_code == 1
    assert "another account can read it" in result.stderr
    assert (tmp_path / "theirs").read_bytes() == b""
    (tmp_path / "out.csv.partial").unlink()
    (tmp_path / "out.csv.partial").touch(mode=0o666)
    assert export("--out", "out.csv").exit_code == 0
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "error"), [("out.csv.resume.json", "damaged"), ("out.csv", "--force")]
)
def test_an_existing_output_or_damaged_journal_is_only_replaced_with_force(
    export: Run, tmp_path: Path, name: str, error: str
) -> None:
    (tmp_path / name).write_text("{}")
    assert error in refusal(export("--out", "out.csv"))
    assert (tmp_path / name).read_text() == "{}"
    assert export("--out", "out.csv", "--force").exit_code == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == ROWS + 1
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600


def test_stdout_has_the_rows_alone(export: Run, tmp_path: Path) -> None:
    result = export("--format", "jsonl", "--out", "-")
    assert [json.loads(line)["tenant"] for line in result.stdout.splitlines()] == ["acme"] * ROWS
    assert result.stderr.startswith(f"stdout: {ROWS} rows")
    assert export().stdout.count("\n") == ROWS + 1
    assert not names(tmp_path)


@ON_SQLITE
@pytest.mark.parametrize(
    ("words", "exit_code", "error"),
    [
        ("--format xml", 2, "'xml' is not one of"),
        ("--format parquet", 2, "--out"),
        ("--out nowhere/out.csv", 2, "nowhere"),
        ("--out s3://", 2, "name a bucket profile and a key"),
        ("--out s3://demo", 2, "name a bucket profile and a key"),
        ("--tenant acne --out out.csv", 2, "there is no tenant 'acne'"),
        ("--since 2026-11-02 --until 2026-11-01 --out out.csv", 2, "is later than --until"),
        ("--out .", 2, "--out: . is not a regular file"),
        ("--out /dev/null", 2, "--out: /dev/null is not a regular file"),
        ("--out s3://nowhere/a.csv", 1, "no bucket profile 'nowhere'"),
    ],
)
def test_wrong_usage_is_named_and_leaves_nothing_behind(
    export: Run, tmp_path: Path, words: str, exit_code: int, error: str
) -> None:
    result = export(*words.split())
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert error in result.stderr
    assert not names(tmp_path)


def test_a_failed_export_leaves_no_file_under_its_name(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[ChunkItems]) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export_run._TEXT_FORMATS, "csv", fail)
    result = export("--out", "out.csv")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert "out.csv" not in names(tmp_path)


def test_the_python_api_tells_whose_a_grant_is(export: Run, database: str) -> None:
    row = json_rows(export("--format", "jsonl"))[0]
    with AuditLog(database) as log:
        (found,) = log.whose(row["grant"])
        assert log.whose("0199a000-0000-7000-8000-ffffffffffff.0") == []
        with pytest.raises(ValueError, match="no link"):
            log.whose("hello")
    assert (found.verdict, found.grant.key) == ("named", row["key"])
    assert "digest" not in repr(found)


@pytest.mark.usefixtures("export")
@pytest.mark.parametrize("column", ["code", "codes"])
def test_top_takes_a_column_in_singular_and_plural(column: str) -> None:
    result = run_audit("top", column, "--csv")
    assert (result.exit_code, "key_traversal" in result.stdout) == (0, True)


def test_an_object_is_stored_once_and_replaced_with_force(
    export: Run, apply_config: ApplyConfig, seaweed: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    place = {"Bucket": "exports", "Key": "audit/all.csv"}
    client = seaweed.client()
    create_buckets(client, {"exports"})
    for key in (place["Key"], MANIFEST):
        client.delete_object(Bucket="exports", Key=key)
    apply_config(TenantConfig({"archive": Bucket("archive", "exports", "us-east-1", "path")}))
    words = ("--out", f"s3://archive/{place['Key']}")
    result = export(*words)
    assert result.exit_code == 0, result.output
    data = client.get_object(**place)["Body"].read()
    assert len(data.splitlines()) == ROWS + 1
    manifest = json.loads(client.get_object(Bucket="exports", Key=MANIFEST)["Body"].read())
    assert (manifest["rows"], manifest["sha256"]) == (ROWS, sha256(data).hexdigest())
    for key in (place["Key"], MANIFEST):  # each of them is enough
        again = export(*words)
        assert (again.exit_code, "--force" in again.stderr) == (1, True)
        client.delete_object(Bucket="exports", Key=key)
    assert export(*words, "--force").exit_code == 0
    assert "Uploads" not in client.list_multipart_uploads(Bucket="exports")


PAGE = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
PROGRAM = re.findall(r"^```python\n# audit_script.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_documented_script_prints_refusals_counts_and_requesters(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
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
