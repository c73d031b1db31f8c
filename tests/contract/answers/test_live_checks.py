"""`doctor --live` against real servers: docs/appendix/live-checks.md, and a clean bucket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select

from models import Batch, Chunk, Grant, MultipartUpload, Reservation, Usage
from tests.support.cli.live_doctor import documented_verdicts, verdicts
from tests.support.cli.operator import json_lines
from tests.support.s3.doubles import Role
from tests.support.s3.stores import (
    BUCKET,
    ROLE,
    SERVERS,
    VERSIONED_BUCKET,
    Store,
    versioned_profile,
)
from worker.dev.embedded_servers import Storage
from worker.doctor.doctor_command import doctor

LABELS = dict(zip(SERVERS, ("SeaweedFS", "MiniStack"), strict=True))
pytestmark = pytest.mark.usefixtures("contract_engine")


@pytest.fixture(autouse=True)
def _environment(
    folder: Path, storages: Mapping[str, Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{folder / 'valetkey.db'}")
    monkeypatch.setenv("VALETKEY_STS_ENDPOINT", storages["ministack"].endpoint)


def run_live(profile: str, *options: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(doctor, ["--live", profile, "--yes", "--json", *options])
    assert result.exit_code in {0, 1}, result.output
    return json_lines(result)


def stored_versions(store: Store, bucket: str) -> list[str]:
    page = store.client.list_object_versions(Bucket=bucket, Prefix="valetkey-doctor/")
    return [item["Key"] for item in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]]


def open_uploads(store: Store, bucket: str) -> list[str]:
    uploads = store.client.list_multipart_uploads(Bucket=bucket).get("Uploads") or ()
    return [upload["Key"] for upload in uploads if upload["Key"].startswith("valetkey-doctor/")]


class CompletedRun(NamedTuple):
    """The findings of one run, what it left in storage, and the rows that it added."""

    findings: list[dict[str, Any]]
    left: list[str]
    added_rows: int


@pytest.fixture(scope="module")
def completed_runs() -> dict[str, CompletedRun]:
    """The runs of this module's tests by server: each takes several seconds."""
    return {}


@pytest.fixture
def completed_run(
    store: Store, contract_engine: Engine, completed_runs: dict[str, CompletedRun]
) -> CompletedRun:
    """A run against the server in a bucket with ACLs, whose profile names its owner."""
    if store.name not in completed_runs:
        rows = count_rows(contract_engine)
        findings = run_live(store.name)
        left = [*(key for _, key, _ in store.objects()), *open_uploads(store, BUCKET)]
        added_rows = count_rows(contract_engine) - rows
        completed_runs[store.name] = CompletedRun(findings, left, added_rows)
    return completed_runs[store.name]


def count_rows(engine: Engine) -> int:
    tables = (Batch, Chunk, Grant, Usage, Reservation, MultipartUpload)
    with engine.connect() as connection:
        counts = (connection.scalar(select(func.count()).select_from(table)) for table in tables)
        return sum(count or 0 for count in counts)


def test_the_verdicts_are_those_of_the_documented_table(
    store: Store, completed_run: CompletedRun
) -> None:
    assert verdicts(completed_run.findings) == documented_verdicts(LABELS[store.name])


def test_nothing_is_left_in_the_bucket(completed_run: CompletedRun) -> None:
    assert completed_run.findings[-1]["verdict"] == "ok"
    assert completed_run.left == []


def test_nothing_is_recorded_or_charged(completed_run: CompletedRun) -> None:
    assert completed_run.added_rows == 0


def test_nothing_is_left_in_a_versioned_bucket(store: Store) -> None:
    findings = run_live(versioned_profile(store.name))
    assert findings[-1]["verdict"] == "ok"
    assert findings[0]["verdict"] == "ok"
    assert stored_versions(store, VERSIONED_BUCKET) == []
    assert open_uploads(store, VERSIONED_BUCKET) == []


def test_the_session_of_a_role_is_tried_and_what_it_stored_is_deleted(
    ministack: Storage, stores: dict[str, Store]
) -> None:
    role = Role(ministack, ROLE)
    findings = run_live("assumed")
    assert {row["check"]: row["verdict"] for row in findings if row["grant"] == "session"} == {
        "PUT outside of its prefix": "ok",
        "link without its session token": "ok",
    }
    assert findings[-1]["verdict"] == "ok"
    assert not stores["ministack"].objects()
    role.delete()
