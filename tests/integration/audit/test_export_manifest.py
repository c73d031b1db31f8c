"""An export ends with a manifest, by which `audit verify --export` finds what the file lacks."""

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from errno import ENOSPC
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Connection, Engine, select, update

from models import TreeHead
from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.rebuilding import cut_tail
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import ON_SQLITE, json_lines, refusal
from tests.support.cli.operator import run_audit as run
from tests.support.servers.databases import url_text
from worker.audit.audit_rows import COLUMNS, Bound, read_bound
from worker.audit.text_conditions import ERASED, is_match
from worker.base.database_engine import write_transaction
from worker.export import export_check, export_command
from worker.ledger.merkle import RightEdge
from worker.proof.checkpoint_key import create_key_file, read_key_file
from worker.rules.tenant_config import Tenant
from worker.shared.whole_files import write_private_file
from worker.tenants.config_changes import ChangeAuthor, record_changes

FORMATS = ("csv", "jsonl", "parquet", "ocsf")
OUT = Path("out")
MANIFEST = Path("out.manifest.json")
GLOBEX = Tenant("globex", "queue", policies={"demo": replace(POLICY, prefixes=("globex/",))})


@pytest.fixture(autouse=True)
def key(
    service: InProcessService,
    apply_config: ApplyConfig,
    at_clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A log of six items, and the public key that signed it; the next chunk is an hour later."""
    monkeypatch.chdir(tmp_path)
    create_key_file(Path("audit.key"), "audit.example.com/valetkey")
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(tmp_path / "audit.key"))
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "audit.example.com/valetkey")
    config = tenant_config()
    apply_config(replace(config, tenants={**config.tenants, "globex": GLOBEX}))
    texts = [{"recipient": "Ann"}, {"recipient": "bob", "ref": "mail-1"}, {}]
    keys = ['acme/1,"ü"', "acme/'2'", "elsewhere"]
    items = [{"key": key} | text for key, text in zip(keys, texts, strict=True)]
    service.issue(grant_message(keys) | {"items": items})
    service.issue(grant_message(["globex/1"], tenant="globex", recipient="Ann"))
    service.issue(grant_message(["acme/3", "acme/4"], requested_by="carl"))
    at_clock.forward(hours=1)
    return str(read_key_file(Path("audit.key")).signer.verifier)


def export(*words: str) -> dict[str, Any]:
    """Export to `out`, and return its manifest."""
    result = run("export", *words, "--out", "out")
    assert result.exit_code == 0, result.output
    return read_manifest()


def read_manifest() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(MANIFEST.read_text())
    return manifest


def change_manifest(**values: Any) -> None:
    MANIFEST.write_text(json.dumps(read_manifest() | values))


def mend(rows: int) -> None:
    """Let the manifest state the bytes, hash and rows that the file has."""
    data = OUT.read_bytes()
    change_manifest(bytes=len(data), sha256=sha256(data).hexdigest(), rows=rows)


def verified() -> dict[str, Any]:
    """Return what a verification says of the export, in which nothing differs."""
    result = run("verify", "--export", "out", "--json")
    assert result.exit_code == 0, result.output
    (row,) = (row for row in json_lines(result) if row["type"] == "export")
    return row


def problem() -> str:
    """Return the only problem that a verification finds, in the file."""
    result = run("verify", "--export", "out")
    assert result.exit_code == 1, result.output
    problems = [line for line in result.stdout.splitlines() if line.startswith("out: ")]
    (text,) = (line for line in problems if not line.startswith("out: compared "))
    return text.removeprefix("out: ").removesuffix(
        ": export the same rows again, and compare both files"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_manifest_states_what_was_exported(name: str, engine: Engine) -> None:
    run("checkpoint", "--tenant", "acme")
    words = ("--tenant", "acme", "--since", "2h", "--decision", "issued", "--format", name)
    manifest = export(*words)
    data = OUT.read_bytes()
    assert MANIFEST.stat().st_mode & 0o777 == 0o600
    assert manifest["filters"] == {"--tenant": "acme", "--since": "2h", "--decision": ["issued"]}
    assert (manifest["format"], manifest["columns"]) == (name, list(COLUMNS))
    assert (manifest["rows"], manifest["bytes"]) == (4, len(data))
    assert manifest["sha256"] == sha256(data).hexdigest()
    assert manifest["since"] < manifest["decided_before"] <= manifest["written_at"]
    (tree,) = manifest["trees"]
    with engine.connect() as connection:
        query = select(TreeHead.size, TreeHead.edge).where(TreeHead.tenant == "acme")
        edge = RightEdge.from_bytes(*connection.execute(query).one())
    assert (tree["tenant"], tree["size"], tree["root"]) == ("acme", 2, edge.root().hex())
    assert tree["checkpoint"].startswith("audit.example.com/valetkey/acme\n2\n")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ((), 6),
        (("--tenant", "globex"), 1),
        (("--since", "1h", "--until", "30m"), 6),
        (("--until", "1h"), 0),
        (("--recipient", "ANN"), 2),
        (("--requester", "c*"), 2),
        (("--state", "unknown"), 5),
        (("--key", "s3://demo/*/[1-3]*", "--signed-by", ""), 3),
        (("--bucket", "demo", "--decision", "refused", "--kind", "download"), 1),
    ],
)
def test_a_file_as_it_was_exported_has_all_rows(words: tuple[str, ...], rows: int) -> None:
    assert export(*words)["rows"] == rows
    assert (verified()["rows"], verified()["erased"]) == (rows, 0)


@ON_SQLITE
@pytest.mark.parametrize("words", [(), ("--until", "1h")], ids=["rows", "no rows"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_again(name: str, words: tuple[str, ...]) -> None:
    manifest = export("--format", name, *words)
    assert verified()["rows"] == manifest["rows"]


def swap(lines: list[bytes]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def forge(lines: list[bytes]) -> None:
    lines.append(lines[2].replace(b"Ann", b"eve").replace(b"acme/1", b"acme/9"))


CHANGES: dict[str, tuple[Callable[[list[bytes]], object], str]] = {
    "two rows were swapped": (swap, "instead of row 2, the database has grant "),
    "a row was removed": (lambda lines: lines.pop(3), "instead of row 3, the database has grant "),
    "the last row was removed": (lambda lines: lines.pop(), "after its last row, the database has"),
    "all rows were removed": (
        lambda lines: lines.__delitem__(slice(1, None)),
        "after its last row",
    ),
    "a row was added": (forge, "the database has no row 7 for its filters"),
    "a row is twice": (lambda lines: lines.append(lines[-1]), "the database has no row 7"),
    "an empty row was added": (lambda lines: lines.append(b"\n"), "after 6 rows, it is not csv"),
    "a cell was added": (lambda lines: lines.append(b"a,b\n"), "after 6 rows, it is not csv"),
    "a quote is open": (lambda lines: lines.append(b'"a'), "after 6 rows, it is not csv"),
    "the heading was changed": (lambda lines: lines.pop(0), "after 0 rows, it is not csv"),
}


@ON_SQLITE
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_found_also_if_its_manifest_was_changed_with_it(change: str) -> None:
    export()
    lines = OUT.read_bytes().splitlines(keepends=True)
    make_change, expected = CHANGES[change]
    make_change(lines)
    OUT.write_bytes(b"".join(lines))
    mend(len(lines) - 1)
    assert problem().startswith(expected)


@ON_SQLITE
@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_value_is_found_in_every_format(name: str) -> None:
    export("--format", name)
    if name == "parquet":
        rows = pq.read_table(OUT).to_pylist()
        rows[1]["key"] = "acme/other"
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(OUT)), OUT)
    else:
        OUT.write_bytes(OUT.read_bytes().replace(b"acme/'2'", b"acme/other"))
    mend(6)
    assert problem().startswith("instead of row 2, the database has grant ")


@ON_SQLITE
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_cut_off_is_found(name: str) -> None:
    export("--format", name)
    OUT.write_bytes(OUT.read_bytes()[:-9])
    result = run("verify", "--export", "out")
    assert result.exit_code == 1, result.output
    assert "out: it has " in result.stdout
    assert " bytes, and its manifest states " in result.stdout


@ON_SQLITE
def test_a_file_of_the_same_size_is_found_by_its_hash() -> None:
    export()
    OUT.write_bytes(OUT.read_bytes().replace(b"bob", b"eve"))
    result = run("verify", "--export", "out")
    assert (result.exit_code, "its SHA-256 is not that of" in result.stdout) == (1, True)


@ON_SQLITE
@pytest.mark.parametrize("name", ["jsonl", "ocsf", "parquet"])
def test_a_value_that_is_there_twice_is_found(name: str) -> None:
    export("--format", name)
    if name == "parquet":
        table = pq.read_table(OUT)
        columns = [pa.array(["other"] * 6), *table.columns]
        pq.write_table(pa.Table.from_arrays(columns, ["key", *table.column_names]), OUT)
    else:
        OUT.write_bytes(OUT.read_bytes().replace(b"{", b'{"time": 0, ', 1))
    mend(6)
    assert problem() == f"after 0 rows, it is not {name} as exported"


@ON_SQLITE
def test_a_row_without_end_is_not_read_to_its_end() -> None:
    file = BytesIO(",".join(COLUMNS).encode() + b'\n"' + b'\n","' * 2**20)
    with pytest.raises(ValueError, match="too long"):
        list(export_check._read_rows("csv", file))
    assert file.tell() < 2**21


@ON_SQLITE
def test_an_earlier_last_batch_hides_no_rows() -> None:
    export()
    OUT.write_bytes(OUT.read_bytes().splitlines(keepends=True)[0])
    change_manifest(last_batch_number=0)
    mend(0)
    assert problem().startswith("after its last row, the database has grant ")


@ON_SQLITE
def test_what_was_compared_is_printed_and_not_what_the_options_were() -> None:
    export("--since", "3h", "--until", "1m", "--bucket", "valetkey-demo", "--tz", "Asia/Tokyo")
    text = "of the bucket profiles 'demo', since 2026-11-24T10:30:00Z, until 2026-11-24T13:29:00Z, "
    assert text in verified()["text"]


@ON_SQLITE
def test_the_manifest_of_another_export_is_found() -> None:
    export("--tenant", "globex")
    other = MANIFEST.read_bytes()
    export("--force")
    MANIFEST.write_bytes(other)
    result = run("verify", "--export", "out")
    assert (result.exit_code, "its manifest states" in result.stdout) == (1, True)


@ON_SQLITE
def test_a_number_of_rows_that_is_wrong_alone_is_found() -> None:
    export()
    change_manifest(rows=7)
    assert problem() == "it has 6 rows, and its manifest states 7"


@ON_SQLITE
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"NaN\n", b"[" * 5_000, b'{"time": 1e999}\n', b"\xff\n", b"a" * 2_000_000],
)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_something_else_is_named(name: str, content: bytes) -> None:
    export("--format", name)
    OUT.write_bytes(content)
    mend(6)
    text = problem()
    assert text.startswith((f"after 0 rows, it is not {name}", "after its last row", "instead of"))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_differ_by_erasures_are_counted(name: str) -> None:
    export("--format", name)
    assert run("erase", "--recipient", "ann", "--yes", "9").exit_code == 0
    assert run("erase", "--requested-by", "carl", "--yes", "9").exit_code == 0
    assert (verified()["rows"], verified()["erased"]) == (6, 4)
    assert "4 of them differ by erasures since" in verified()["text"]


def test_what_was_erased_is_still_selected_by_it() -> None:
    export("--recipient", "ann")
    run("erase", "--tenant", "acme", "--recipient", "ann", "--yes", "9")
    assert (verified()["rows"], verified()["erased"]) == (2, 1)
    lines = OUT.read_bytes().splitlines(keepends=True)
    OUT.write_bytes(b"".join(lines[:2]))  # without the row that was not erased
    mend(1)
    assert problem().startswith("after its last row, the database has grant ")


def test_rows_are_found_in_whatever_state_they_are_now(
    service: InProcessService, at_clock: Clock
) -> None:
    service.issue(grant_message(["acme/5"]))
    at_clock.forward(minutes=1)
    assert export("--state", "open")["rows"] == 1
    at_clock.forward(hours=1)
    assert verified()["rows"] == 1
    assert verified()["absent"] == 6
    assert "6 rows of the database are not in it, and need not be" in verified()["text"]


def test_a_row_that_its_filters_do_not_select_is_found() -> None:
    export()
    change_manifest(filters={"--recipient": "ann"})
    assert problem().startswith("instead of row 2, the database has grant ")


def test_rows_of_a_chunk_that_was_committed_during_the_export_may_be_missing(
    service: InProcessService, at_clock: Clock
) -> None:
    before = export()
    service.issue(grant_message(["acme/5"]))
    at_clock.forward(minutes=1)
    after = export("--force")
    run("export", "--until", "1h", "--out", "less")
    OUT.write_bytes(Path("less").read_bytes())
    change_manifest(trees=before["trees"])
    mend(6)
    assert (verified()["rows"], verified()["absent"]) == (6, 1)
    change_manifest(trees=after["trees"])
    assert problem().startswith("after its last row, the database has grant ")


def test_no_chunk_is_missing_because_it_was_committed_late(
    service: InProcessService, at_clock: Clock
) -> None:
    before = export()
    service.issue(grant_message(["acme/5"]))
    at_clock.forward(minutes=16)
    export("--force")
    run("export", "--until", "1h", "--out", "less")
    OUT.write_bytes(Path("less").read_bytes())
    change_manifest(trees=before["trees"])
    mend(6)
    assert problem().startswith("after its last row, the database has grant ")


def test_a_database_that_does_not_continue_the_trees_of_the_manifest_is_named(
    engine: Engine,
) -> None:
    run("checkpoint")
    export("--tenant", "acme")
    with closing(StoredTables(url_text(engine.url))) as tables:
        cut_tail(tables, "acme", 1, with_checkpoints=True)
    result = run("verify", "--export", "out")
    assert result.exit_code == 1, result.output
    text = "the tree has 1 leaves, and the tree of size 2 in out.manifest.json covers 2"
    assert text in result.stdout
    assert "out: the database has no row 4 for its filters" in result.stdout


def test_another_root_is_named() -> None:
    manifest = export("--tenant", "acme")
    change_manifest(trees=[manifest["trees"][0] | {"root": "0" * 64}])
    result = run("verify", "--export", "out")
    assert result.exit_code == 1
    assert "differ from the tree of size 2 in out.manifest.json" in result.stdout


def test_only_the_tenants_of_the_export_are_verified(engine: Engine) -> None:
    export("--tenant", "acme")
    with closing(StoredTables(url_text(engine.url))) as tables:
        (batch,) = tables.rows("batches", "tenant = ?", "globex")
        tables.update("batches", batch, kind="other")
    assert verified()["rows"] == 5
    assert run("verify").exit_code == 1


def test_a_tree_that_no_checkpoint_covers_is_named() -> None:
    export("--tenant", "acme")
    text = "The tree of size 2 in out.manifest.json, of tenant acme: no checkpoint covers it yet"
    result = run("verify", "--export", "out")
    assert text in result.stdout
    assert "No checkpoint was compared" in result.stderr
    run("checkpoint", "--tenant", "acme", "--out", "acme.checkpoint")
    assert text not in run("verify", "--export", "out").stdout


def test_the_checkpoint_of_the_manifest_is_verified_with_the_key(key: str) -> None:
    run("checkpoint")
    manifest = export("--tenant", "acme")
    assert run("verify", "--export", "out", "--key", key).exit_code == 0
    forged = manifest["trees"][0]["checkpoint"].replace("\n2\n", "\n3\n")
    change_manifest(trees=[manifest["trees"][0] | {"checkpoint": forged}])
    assert "the signature of" in refusal(run("verify", "--export", "out", "--key", key))


TREE = {"tenant": "acme", "size": 1, "root": "0" * 64, "checkpoint": None}


@ON_SQLITE
@pytest.mark.parametrize(
    "values",
    [
        {"rows": -1},
        {"rows": "6"},
        {"bytes": 2**63},
        {"rows": float("nan")},
        {"sha256": "A" * 64},
        {"version": 2},
        {"manifest": "another"},
        {"more": 1},
        {"format": "xml"},
        {"columns": ["time"]},
        {"decided_before": "yesterday"},
        {"decided_before": "9999-12-31T23:59:59-23:59"},
        {"since": "2026-11-24T12:00:00"},
        {"filters": {"--tenant": "nobody"}},
        {"filters": {"--tenant": 1}},
        {"filters": {"--out": "other"}},
        {"filters": {"--help": ""}},
        {"filters": {"--tenant": ["acme", "globex"]}},
        {"filters": {"--decision": "issued"}},
        {"filters": {"--decision": ["no_such_code"]}},
        {"filters": {"--key": "\0"}},
        {"filters": {"--key": "*" * 2_000}},
        {"buckets": ["\0"]},
        {"trees": [TREE | {"tenant": "a/b"}]},
        {"trees": [TREE | {"root": "00"}]},
        {"trees": [TREE | {"size": 0, "root": sha256().hexdigest()}]},
        {"trees": [TREE | {"checkpoint": "none"}]},
    ],
    ids=str,
)
def test_a_manifest_that_no_export_wrote_is_refused(values: dict[str, Any]) -> None:
    export()
    change_manifest(**values)
    error = refusal(run("verify", "--export", "out"))
    assert "--export" in error
    assert "manifest" in error


@ON_SQLITE
@pytest.mark.parametrize(
    "content",
    [None, "", "{", "null", "[" * 100_000, '{"a":' * 100_000, "\udc80"],
)
def test_a_manifest_that_is_missing_or_no_json_is_refused(content: str | None) -> None:
    export()
    MANIFEST.unlink()
    if content is not None:
        MANIFEST.write_bytes(content.encode(errors="surrogateescape"))
    assert "out.manifest.json" in refusal(run("verify", "--export", "out"))


@ON_SQLITE
def test_a_manifest_that_is_too_large_is_not_parsed() -> None:
    export()
    MANIFEST.write_bytes(MANIFEST.read_bytes() + b" " * 32 * 2**20)
    assert "too large" in refusal(run("verify", "--export", "out"))


def test_an_export_of_all_tenants_has_the_trees_of_all(engine: Engine, at_clock: Clock) -> None:
    with write_transaction(engine) as connection:
        author = ChangeAuthor(at_clock(), "alice", "apply")
        record_changes(connection, [("tenants.acme.trust", None, "queue")], author)
    assert [tree["tenant"] for tree in export()["trees"]] == ["acme", "globex"]


def test_a_chunk_that_is_committed_while_an_export_begins_may_be_missing(
    service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(connection: Connection, now: datetime) -> Bound:
        bound = read_bound(connection, now + timedelta(minutes=1))
        service.issue(grant_message(["acme/5"]))
        return bound

    monkeypatch.setattr(export_command, "read_bound", read)
    assert export()["rows"] == 6
    assert verified()["absent"] == 1


@ON_SQLITE
@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("chunks", {"issued_at": 2**62}),
        ("chunks", {"issued": "x"}),
        ("chunks", {"expires_in": 2**50}),
        ("grants", {"object_key": b"\xff"}),
    ],
    ids=str,
)
def test_a_database_that_cannot_be_read_does_not_hide_its_problem(
    engine: Engine, table: str, values: dict[str, Any]
) -> None:
    export()
    with closing(StoredTables(url_text(engine.url))) as tables:
        tables.update(table, tables.rows(table)[0], **values)
    result = run("verify", "--export", "out")
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith(f"{table}: tenant acme")
    assert (
        "out: the database has rows that cannot be read, so it was not compared." in result.stdout
    )


@ON_SQLITE
def test_a_wrong_use_is_named() -> None:
    assert "'out' does not exist" in refusal(run("verify", "--export", "out"))
    Path("n" * 250).touch()
    assert "File name too long" in refusal(run("verify", "--export", "n" * 250))
    export()
    assert "leave out --tenant" in refusal(run("verify", "--export", "out", "--tenant", "acme"))


@ON_SQLITE
def test_no_old_manifest_vouches_for_a_new_file(monkeypatch: pytest.MonkeyPatch) -> None:
    export()
    OUT.unlink()
    assert "out.manifest.json exists" in refusal(run("export", "--out", "out"))

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_command, "write_rows", fail)
    assert run("export", "--out", "out", "--force").exit_code == 130
    assert not MANIFEST.exists()


@ON_SQLITE
@pytest.mark.parametrize(
    ("error", "code"), [(OSError(ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
def test_an_export_whose_manifest_fails_is_continued(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(path: Path, data: bytes, *, replace: bool) -> None:
        if code != 1:
            write_private_file(path, data, replace=replace)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(export_command, "write_private_file", fail)
        assert run("export", "--out", "out").exit_code == code
    assert not OUT.exists()
    assert export()["rows"] == 6
    assert verified()["rows"] == 6


@ON_SQLITE
@pytest.mark.parametrize("name", ["/dev/zero", "fifo"])
def test_what_is_no_regular_file_is_not_read(name: str) -> None:
    export()
    OUT.unlink()
    os.mkfifo("fifo")
    OUT.symlink_to(name)
    assert "no regular file" in refusal(run("verify", "--export", "out"))


def test_a_text_is_matched_in_memory_as_in_the_database() -> None:
    patterns = ["ANN", "a*", "?nn", "[a-b]*", "[!b]*", "*", "[", "ann]", ERASED]
    for pattern in patterns:
        listed = run("list", "--recipient", pattern, "--json")
        texts = [row["recipient"] for row in json_lines(listed)]
        expected = [text for text in ("Ann", "Ann", "bob") if is_match(text, pattern)]
        assert sorted(texts) == expected
    assert not is_match(None, "*")


def test_a_tree_whose_head_was_changed_is_left_out_and_its_rows_are_exported(
    engine: Engine,
) -> None:
    with write_transaction(engine) as connection:
        grown = {"size": TreeHead.size + 1, "edge": b"x"}
        connection.execute(update(TreeHead).where(TreeHead.tenant == "acme").values(grown))
    manifest = export()
    assert [tree["tenant"] for tree in manifest["trees"]] == ["globex"]
    assert manifest["rows"] == 6
    assert run("verify", "--export", "out").exit_code == 1
