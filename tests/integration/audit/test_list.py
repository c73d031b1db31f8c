"""`audit list`: its filters, columns and pages, and --follow."""

import csv
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from subprocess import PIPE, Popen

import pytest
from sqlalchemy import Engine

from tests.support.builders.audit_rows import MORNING, AuditedBatch, batch_id
from tests.support.cli.audit_log import ALL, FIRST, LOG, SECOND, grants, items, write_batches
from tests.support.cli.operator import Run, audit_pages, json_rows, refusal, run_audit
from valetkey.cli.terminal_text import program_command
from worker.audit import index_scans, list_command
from worker.audit.audit_rows import COLUMNS, GrantRecord
from worker.audit.grant_filters import GrantFilter
from worker.audit.list_command import follow_grants
from worker.base.database_engine import write_transaction
from worker.ledger.tenant_rows import load_config, store_config
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig, TenantKey
from worker.tenants.apply_plan import diff_config
from worker.tenants.config_changes import ChangeAuthor, record_changes


@pytest.fixture
def run(database: str) -> Run:
    """A function that runs `audit` on a log of three batches."""
    write_batches(database, *LOG)
    return run_audit


def test_an_issued_item_has_its_request_and_expiry(run: Run) -> None:
    assert json_rows(run("list", "--json"))[-1] == {
        "time": "2026-11-24T08:00:00Z",
        "tenant": "acme",
        "requested_by": "billing",
        "signed_by": None,
        "key_thumbprint": None,
        "recipient": None,
        "reason": None,
        "ref": None,
        "bucket": "demo",
        "kind": "download",
        "key": "acme/1",
        "decision": "issued",
        "expires_at": "2026-11-24T09:00:00Z",
        "grant": f"{batch_id(1)}.0",
    }


TIMES = [f"2026-11-24T08:00:0{seconds}Z" for seconds in (2, 1, 1, 0, 0)]


@pytest.mark.parametrize(
    ("words", "column", "expected"),
    [
        pytest.param("", "grant", ALL, id="every item, newest first"),
        pytest.param("--tenant globex", "signed_by", ["billing-2026"] * 2, id="the signing key"),
        pytest.param("--decision key_traversal", "decision", ["key_traversal"], id="the code"),
        pytest.param("--decision key_traversal", "expires_at", [None], id="no expiry"),
        pytest.param(f"--batch {batch_id(1)}", "time", TIMES, id="the time of the chunk"),
        pytest.param(f"--all --after {batch_id(1)}.3", "grant", items(1, 2, 1, 0), id="all after"),
    ],
)
def test_a_list_has(run: Run, words: str, column: str, expected: list[str]) -> None:
    assert [row[column] for row in json_rows(run("list", *words.split(), "--json"))] == expected


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_the_pages_together_are_the_whole_list_once(limit: int) -> None:
    pages = audit_pages("list", "--json", "--limit", str(limit))
    listed = [[row["grant"] for row in rows] for rows in pages]
    assert listed == [ALL[start : start + limit] for start in range(0, len(ALL), limit)]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("limit", "max_read"), [(1, 9), (1, 1), (2, 3), (5, 1), (5, 9)])
def test_pages_of_refusal_codes_are_the_whole_list_once(
    monkeypatch: pytest.MonkeyPatch, limit: int, max_read: int
) -> None:
    """The index has all candidates, or some of them, and the rest is scanned."""
    monkeypatch.setattr(index_scans, "_MAX_READ", max_read)
    monkeypatch.setattr(index_scans, "_RANGES_PER_READ", 1)
    words = ("list", "--decision", "key_traversal,quota_exceeded", "--json", "--limit", str(limit))
    listed = [row["grant"] for rows in audit_pages(*words) for row in rows]
    assert listed == SECOND + items(1, 2)


def test_a_table_ends_with_the_command_for_its_next_page(run: Run) -> None:
    words = ["list", "--prefix", "acme/", "--since", "2026-11-24", "--limit", "2"]
    *_, last = run(*words).stdout.splitlines()
    assert last == (
        f"Next page: {program_command('python')} -m worker audit list --prefix acme/ "
        f"--since 2026-11-24T00:00:00Z --limit 2 --after acme/{batch_id(1)}.3"
    )


def test_a_cursor_in_batches_of_two_tenants_requires_the_tenant(database: str, run: Run) -> None:
    other = AuditedBatch(4, ["globex/3", "globex/4"], tenant="globex", id_number=1)
    write_batches(database, other)
    assert "TENANT/BATCH.NUMBER" in refusal(run("list", "--after", f"{batch_id(1)}.1"))
    after = json_rows(run("list", "--json", "--after", f"globex/{batch_id(1)}.1"))
    assert after[0]["key"] == "globex/3"


def test_a_relative_time_is_absolute_in_the_command_for_the_next_page(run: Run) -> None:
    result = run("list", "--since", "36500d ago", "--limit", "1")
    assert "d ago" not in result.stdout.splitlines()[-1]


def test_the_next_page_keeps_several_decisions_and_the_zone(run: Run) -> None:
    options = "--decision issued --decision key_traversal --tz Asia/Tokyo --limit 1 --json"
    words = options.split()
    words_of_next = shlex.split(run("list", *words).stderr.partition("audit list ")[2])
    assert words_of_next[:6] == words[:6]
    assert grants(run("list", *words_of_next)) == items(1, 4)


def test_csv_has_a_header_and_a_row_for_each_item(run: Run) -> None:
    header, *rows = csv.reader(run("list", "--csv").stdout.splitlines())
    assert header[-3:] == ["decision", "expires_at", "grant"]
    assert [row[-1] for row in rows] == ALL


def test_an_invalid_value_is_a_usage_error(run: Run) -> None:
    wrong = [
        *(f"--after {batch_id(9)}.0", "--after nothing", "--grant 1", "--limit 0", "--since x"),
        *("--since 2026-11-25 --until 2026-11-24", "--key=", "--key s3://demo", "--key s3:///a"),
        *("--tz Berlin", "--columns colour", "--all --limit 5", "--follow --all"),
        *(f"--follow --after {batch_id(1)}.0", "--follow --until 1h", "--json --csv"),
        *(f"--batch {batch_id(1)}.0", f"--batch acme/{batch_id(1)}"),
        *("--bucket demo --key s3://other/a", f"--key {'*' * 1_025}", "--decision issued,"),
    ]
    codes = {words: run("list", *words.split()).exit_code for words in wrong}
    assert codes == dict.fromkeys(wrong, 2)


def test_the_summary_counts_by_tenant_and_kind(run: Run) -> None:
    assert json_rows(run("summary", "--json")) == [
        {"tenant": "acme", "kind": "download", "issued": 5, "refused": 1},
        {"tenant": "globex", "kind": "upload", "issued": 0, "refused": 2},
    ]
    later = json_rows(run("summary", "--since", "2026-11-24T09:30", "--json"))
    assert later == [{"tenant": "acme", "kind": "download", "issued": 1, "refused": 0}]


def test_only_the_chosen_columns_are_printed_in_their_order(run: Run) -> None:
    (row,) = json_rows(run("list", "--columns", "key,grant", "--limit", "1", "--json"))
    assert list(row.items()) == [("key", "ACME/1"), ("grant", f"{batch_id(3)}.0")]
    header = run("list", "--columns", "grant, key", "--csv").stdout.splitlines()[0]
    assert header == "grant,key"


def test_the_columns_are_listed_on_request(run: Run) -> None:
    result = run("list", "--columns", "help")
    assert (result.exit_code, result.stdout.split()) == (0, list(COLUMNS))
    assert GrantRecord._fields == COLUMNS


@pytest.mark.parametrize("format_", ["--json", "--csv", None])
def test_all_rows_are_streamed(run: Run, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    monkeypatch.setattr("worker.audit.list_command._ROWS_PER_BLOCK", 3)
    words = ["--all", "--columns", "grant", *([format_] if format_ else [])]
    result = run("list", *words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert (lines if format_ == "--json" else lines[1:]) == [
        f'{{"grant": "{grant}"}}' if format_ == "--json" else grant for grant in ALL
    ]


FILTERS = {
    "--tenant globex": SECOND,
    "--bucket other": items(3, 0),
    "--requester nightly": SECOND,
    "--signed-by billing-2026": SECOND,
    "--signed-by=": items(3, 0) + FIRST,
    "--key acme/4": items(1, 3),
    "--prefix acme/": FIRST,
    "--prefix acme/_": [],
    "--decision refused": SECOND + items(1, 2),
    "--since 2026-11-24T10:30+01:00": items(3, 0),
    "--until 2026-11-24T08:00:01": items(1, 1, 0),
    "--since 2026-11-24 --until 2026-11-24T09": FIRST,
    "--decision key_traversal,quota_exceeded": SECOND + items(1, 2),
    "--decision issued --decision quota_exceeded --bucket demo": SECOND + items(1, 4, 3, 1, 0),
    "--kind upload": SECOND,
    "--recipient auditor": SECOND,
    "--key acme/?": items(1, 4, 3, 1, 0),
    "--key acme/*": FIRST,
    "--key *[12] --decision issued": items(3, 0) + items(1, 1, 0),
    "--key s3://demo/acme/4": items(1, 3),
    "--key s3://other/acme/4": [],
    f"--batch {batch_id(2)}": SECOND,
    f"--batch {batch_id(2).upper()}": SECOND,
    f"--grant {batch_id(1)}.3": items(1, 3),
    f"--grant acme/{batch_id(1)}.3": items(1, 3),
    f"--grant globex/{batch_id(1)}.3": [],
    f"--grant {batch_id(1)}.5": [],
    f"--batch {batch_id(9)}": [],
}


def test_filters_select_items(run: Run) -> None:
    selected = {words: grants(run("list", *words.split(), "--json")) for words in FILTERS}
    assert selected == FILTERS


def test_an_item_refused_long_after_its_batch_is_found_by_time(database: str, run: Run) -> None:
    late = AuditedBatch(
        5,
        [f"acme/{number}" for number in range(4)],
        {2: "batch_closed", 3: "batch_closed"},
        decided_at=MORNING - timedelta(days=40),
        seconds_between_chunks=int(timedelta(days=41).total_seconds()),
    )
    early = AuditedBatch(6, ["acme/6"], decided_at=MORNING - timedelta(days=35))
    write_batches(database, early, late)
    assert grants(run("list", "--since", "2026-11-25", "--json")) == items(5, 3, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tenant acne", "--tenant: there is no tenant 'acne': did you mean 'acme'?"),
        ("--bucket reprts", "--bucket: there is no bucket profile or bucket 'reprts'"),
        ("--bucket acme-report", "did you mean 'acme-reports'?"),
        ("--key s3://reprts/a", "--key: there is no bucket profile or bucket 'reprts'"),
        ("--decision quota_exceded", "did you mean 'quota_exceeded'?"),
        ("--kind donwload", "did you mean 'download'?"),
        ("--signed-by billing-2025", "did you mean 'billing-2027'?"),
        ("--columns tenat", "did you mean 'tenant'?"),
        ("--tz Europe/Berln", "did you mean Europe/Berlin?"),
        ("--since 2026-11-25 --until 2026-11-24", "2026-11-25T00:00:00Z is later than --until"),
        ("--since 2999-01-01", "--since 2999-01-01T00:00:00Z is in the future"),
        ("--columns time,time", "--columns': it names a column twice"),
        ("--tenant a\udcffb", "--tenant': it has bytes that are not UTF-8"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_similar_one(
    configured: Run, words: str, message: str
) -> None:
    assert message in refusal(configured("list", *words.split()))


@pytest.mark.parametrize(
    "words",
    [
        *("--tenant removed", "--tenant removed~1", "--bucket former", "--signed-by old-key"),
        *("--bucket reports", "--bucket acme-reports", "--key s3://acme-archive/acme/*"),
    ],
)
def test_a_name_that_was_once_configured_is_known(configured: Run, words: str) -> None:
    result = configured("list", *words.split(), "--json")
    assert json_rows(result) == []
    assert "No item of the audit log matches." in result.stderr


def test_a_real_bucket_selects_the_profiles_that_use_or_used_it(configured: Run) -> None:
    for bucket in ("real-demo", "old-demo"):
        of_bucket = grants(configured("list", "--bucket", bucket, "--json"))
        assert of_bucket == SECOND + FIRST


@pytest.fixture
def configured(engine: Engine, run: Run) -> Run:
    """The log, with a config that was applied twice."""
    removed = Tenant("removed", keys={"old-key": TenantKey("old-key", "A" * 43, "B" * 43)})
    acme = Tenant("acme", keys={"billing-2027": TenantKey("billing-2027", "C" * 43, "D" * 43)})
    first = {"demo": "old-demo", "former": "former", "reports": "acme-archive"}
    second = {"demo": "real-demo", "reports": "acme-reports"}
    with write_transaction(engine) as connection:
        author = ChangeAuthor(MORNING, "admin", "apply")
        for buckets, tenant in ((first, removed), (second, acme)):
            profiles = {name: Bucket(name, bucket, "r") for name, bucket in buckets.items()}
            config = TenantConfig(profiles, {tenant.name: tenant})
            before = load_config(connection)
            store_config(connection, before, config, MORNING)
            record_changes(connection, diff_config(before, config), author)
    return run


def test_times_are_read_and_printed_in_the_chosen_zone(run: Run) -> None:
    words = ("--until", "2026-11-24T09:00:01", "--tz", "Europe/Berlin", "--json")
    rows = json_rows(run("list", *words))
    assert [row["grant"] for row in rows] == items(1, 1, 0)
    assert rows[0]["time"] == "2026-11-24T09:00:00+01:00"
    assert rows[0]["expires_at"] == "2026-11-24T10:00:00+01:00"


Next = Callable[[], list[str]]


def commit(engine: Engine, *batches: AuditedBatch) -> None:
    with write_transaction(engine) as connection:
        for batch in batches:
            batch.write(connection)
            append_leaf(connection, batch.tenant, NewLeaf("batch", bytes(32), batch.number, 0))


@pytest.fixture
def following(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Next:
    """A log of one batch, and a function that returns the keys of the next block of rows."""
    monkeypatch.setattr(list_command, "POLL_SECONDS", 0.01)
    commit(engine, AuditedBatch(2, ["acme/1", "acme/2"]))
    blocks = follow_grants(engine, GrantFilter(tenant="acme"), limit=10)
    return lambda: [record.key for record in next(blocks)]


def test_a_page_is_printed_oldest_first_and_then_what_is_committed(
    engine: Engine, following: Next
) -> None:
    assert following() == ["acme/1", "acme/2"]
    commit(engine, AuditedBatch(3, ["acme/3", "acme/4"]))
    assert following() == ["acme/3", "acme/4"]
    commit(engine, AuditedBatch(4, ["globex/1"], tenant="globex"), AuditedBatch(5, ["acme/5"]))
    assert following() == ["acme/5"]
    assert "Connections in pool: 1" in engine.pool.status()  # a slow reader holds no transaction


def test_a_batch_that_is_committed_after_one_with_a_larger_number_is_not_missed(
    engine: Engine, following: Next
) -> None:
    following()
    commit(engine, AuditedBatch(4, ["acme/4"]))
    assert following() == ["acme/4"]
    commit(engine, AuditedBatch(3, ["acme/3"], decided_at=MORNING - timedelta(hours=1)))
    assert following() == ["acme/3"]


def test_a_later_chunk_of_an_old_batch_is_not_missed(engine: Engine, following: Next) -> None:
    following()
    commit(engine, AuditedBatch(1, ["acme/a", "acme/b", "acme/c"]))
    assert following() == ["acme/a", "acme/b"]
    with write_transaction(engine) as connection:
        append_leaf(connection, "acme", NewLeaf("chunk", bytes(32), 1, 1))
    assert following() == ["acme/c"]


@pytest.fixture
def process(engine: Engine) -> Iterator[Popen[str]]:
    commit(engine, AuditedBatch(1, ["acme/1"]))
    command = (sys.executable, "-m", "worker", "audit", "list", "--follow", "--json")
    with Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        yield process
        process.kill()


def next_key(process: Popen[str]) -> str:
    assert process.stdout is not None
    key: str = json.loads(process.stdout.readline())["key"]
    return key


def test_an_interrupt_ends_it_without_a_traceback(engine: Engine, process: Popen[str]) -> None:
    assert next_key(process) == "acme/1"
    commit(engine, AuditedBatch(2, ["acme/2"]))
    assert next_key(process) == "acme/2"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")


def test_a_reader_that_closes_the_pipe_ends_it_without_a_traceback(
    engine: Engine, process: Popen[str]
) -> None:
    assert next_key(process) == "acme/1"
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    commit(engine, AuditedBatch(2, ["acme/2"]))
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == ""
