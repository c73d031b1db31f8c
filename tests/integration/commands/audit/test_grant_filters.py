from datetime import timedelta

import pytest
from sqlalchemy import Engine

from tests.support.builders.audit_rows import MORNING, AuditedBatch, batch_id
from tests.support.cli.audit_log import Run, audit_runner, grants, items, write_batches
from tests.support.cli.operator import json_rows
from worker.core.apply.diff import diff_config
from worker.core.tenants.config import Bucket, Tenant, TenantConfig, TenantKey
from worker.db.audit.changes import ChangeAuthor, record_changes
from worker.db.engine import write_transaction
from worker.db.tenants import load_config, store_config

FILTERS = {
    "--tenant globex": items(2, 1, 0),
    "--bucket other": items(3, 0),
    "--requester nightly": items(2, 1, 0),
    "--signed-by billing-2026": items(2, 1, 0),
    "--signed-by billing-2026 --tenant acme": [],
    "--signed-by=": items(3, 0) + items(1, 4, 3, 2, 1, 0),
    "--key acme/4": items(1, 3),
    "--prefix acme/": items(1, 4, 3, 2, 1, 0),
    "--prefix acme/_": [],
    "--decision refused": items(2, 1, 0) + items(1, 2),
    "--decision issued --tenant acme --bucket demo": items(1, 4, 3, 1, 0),
    "--since 2026-11-24T09:00:00Z": items(3, 0) + items(2, 1, 0),
    "--since 2026-11-24T10:30+01:00": items(3, 0),
    "--until 2026-11-24T08:00:01": items(1, 1, 0),
    "--since 2026-11-24 --until 2026-11-24T09": items(1, 4, 3, 2, 1, 0),
    "--decision key_traversal": items(1, 2),
    "--decision key_traversal,quota_exceeded": items(2, 1, 0) + items(1, 2),
    "--decision issued --decision quota_exceeded --bucket demo": items(2, 1, 0)
    + items(1, 4, 3, 1, 0),
    "--kind upload": items(2, 1, 0),
    "--kind download": items(3, 0) + items(1, 4, 3, 2, 1, 0),
    "--kind upload --requester billing": [],
    "--recipient auditor": items(2, 1, 0),
    "--key acme/?": items(1, 4, 3, 1, 0),
    "--key acme/*": items(1, 4, 3, 2, 1, 0),
    "--key *[12] --decision issued": items(3, 0) + items(1, 1, 0),
    "--key s3://demo/acme/4": items(1, 3),
    "--key s3://demo/acme/[45]": items(1, 4, 3),
    "--key s3://other/acme/4": [],
    f"--batch {batch_id(2)}": items(2, 1, 0),
    f"--batch {batch_id(2).upper()}": items(2, 1, 0),
    f"--grant {batch_id(1)}.3": items(1, 3),
    f"--grant acme/{batch_id(1)}.3": items(1, 3),
    f"--grant globex/{batch_id(1)}.3": [],
    f"--grant {batch_id(1)}.5": [],
    f"--batch {batch_id(9)}": [],
}


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    return audit_runner(database_url, monkeypatch)


def test_filters_select_items(run: Run) -> None:
    selected = {words: grants(run("list", *words.split(), "--json")) for words in FILTERS}
    assert selected == FILTERS


def test_an_item_refused_long_after_its_batch_is_found_by_time(database_url: str, run: Run) -> None:
    late = AuditedBatch(
        5,
        [f"acme/{number}" for number in range(4)],
        {2: "batch_closed", 3: "batch_closed"},
        decided_at=MORNING - timedelta(days=40),
        seconds_between_chunks=int(timedelta(days=41).total_seconds()),
    )
    early = AuditedBatch(6, ["acme/6"], decided_at=MORNING - timedelta(days=35))
    write_batches(database_url, early, late)
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
    result = configured("list", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


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
        assert of_bucket == items(2, 1, 0) + items(1, 4, 3, 2, 1, 0)


@pytest.fixture
def configured(engine: Engine, run: Run) -> Run:
    """The log, with a config that was applied twice."""
    key = TenantKey("old-key", "A" * 43, "B" * 43)
    removed = Tenant("removed", keys={"old-key": key})
    demo, reports = Bucket("demo", "old-demo", "r"), Bucket("reports", "acme-archive", "r")
    former = Bucket("former", "former", "r")
    first = {bucket.name: bucket for bucket in (demo, former, reports)}
    acme = Tenant("acme", keys={"billing-2027": TenantKey("billing-2027", "C" * 43, "D" * 43)})
    second = (Bucket("demo", "real-demo", "r"), Bucket("reports", "acme-reports", "r"))
    with write_transaction(engine) as connection:
        author = ChangeAuthor(MORNING, "admin", "apply")
        configs = (
            TenantConfig(first, {"removed": removed}),
            TenantConfig({bucket.name: bucket for bucket in second}, {"acme": acme}),
        )
        for config in configs:
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
