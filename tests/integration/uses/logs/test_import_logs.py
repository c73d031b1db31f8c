"""Downloads that are recorded from access logs, whatever their lines contain."""

import gzip
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock
from urllib.parse import urlsplit

import pytest

from tests.integration.uses.logs.conftest import KEY, AccessLog, Import, numbers
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import build_service
from tests.support.uses.access_logs import GRANT_ID, aws_line, rgw_line
from worker.aws.s3_clients import S3Clients
from worker.context import Context
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import TenantConfig
from worker.uses import log_imports
from worker.uses.access_log import MAX_LINE_BYTES
from worker.uses.log_imports import write_imported
from worker.uses.use_recorder import RecordedUses, record_uses
from worker.uses.use_reports import UseReport

TEN = [f"R{number}" for number in range(10)]
OTHER_SIGNER = {"other_signer": 1}
SIGNER = "{}=AKIDSTRANGER%2F20261124%2Fus-east-1%2Fs3%2Faws4_request&"


def test_each_download_is_recorded_with_who_and_when(log: AccessLog) -> None:
    result = log.import_("R1", "R2", after=aws_line(log.grant_id, operation="REST.PUT.OBJECT"))
    assert (result["downloads"], result["lines"], result["skipped"]) == (2, 3, {"other": 1})
    assert log.recorded() == [("downloaded", "192.0.2.3", "curl/8.5")] * 2


def test_what_is_added_to_a_file_is_imported_later(log: AccessLog) -> None:
    assert log.import_("R1")["lines"] == 1
    again = log.import_("R1", "R2")
    assert (again["lines"], again["downloads"], again["known"]) == (1, 1, 0)


def test_a_line_that_is_still_written_is_left_for_later(log: AccessLog) -> None:
    first = log.import_(after=log.lines("R1", "R2")[:-40])
    assert (first["downloads"], first["unfinished"]) == (1, 1)
    assert log.import_("R1", "R2")["downloads"] == 1


def test_a_long_line_that_is_still_written_is_left_for_later(log: AccessLog) -> None:
    long = b"x" * 3 * MAX_LINE_BYTES
    assert log.import_("R1", after=long)["unfinished"] == 1
    assert log.import_("R1", after=long + log.lines("R2", "R3"))["downloads"] == 1


def test_a_file_that_was_rotated_is_read_from_its_start(log: AccessLog) -> None:
    log.import_("R1", "R2")
    assert log.import_("R3")["downloads"] == 1


@pytest.mark.parametrize("start", [b"", b"79a59df900b949e5 valetkey-demo ["])
def test_a_file_that_had_no_line_at_first_is_recognised_as_rotated(
    log: AccessLog, start: bytes
) -> None:
    log.import_(before=start)
    log.import_("R1", "R2")
    result = log.import_("R3", "R4", "R5")
    assert (result["lines"], result["downloads"]) == (3, 3)


def test_a_compressed_log_is_imported_once(log: AccessLog, run: Import, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "access.log.gz").write_bytes(gzip.compress(log.lines("R1")))
    assert numbers(run(folder, "--json"))["downloads"] == 1
    again = numbers(run(folder, "--json"))
    assert (again["imported_before"], again["lines"]) == (1, 0)


def test_the_objects_below_a_prefix_are_imported_once(
    log: AccessLog, run: Import, seaweed: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tenant_config()
    logs = replace(config.buckets["demo"], name="logs", bucket="logs", endpoint=seaweed.endpoint)
    log.service.apply(TenantConfig({**config.buckets, "logs": logs}, config.tenants))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    client, prefix = seaweed.client(), f"{log.grant_id}/"
    create_buckets(client, {"logs"})
    many = [f"R{number}" for number in range(4_000)]  # more than one range of the object
    client.put_object(Bucket="logs", Key=f"{prefix}2026-11-24", Body=log.lines(*many))
    packed = gzip.compress(log.lines("R1", "S1"))
    client.put_object(Bucket="logs", Key=f"{prefix}2026-11-25.gz", Body=packed)
    first = numbers(run(f"s3://logs/{prefix}", "--json"))
    assert (first["logs"], first["downloads"], first["known"]) == (2, 4_001, 1)
    assert numbers(run(f"s3://logs/{prefix}", "--json"))["imported_before"] == 2


def test_an_import_that_was_killed_continues_and_doubles_nothing(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.path.write_bytes(log.lines(*TEN))
    monkeypatch.setattr(log_imports, "_REPORTS_PER_TRANSACTION", 4)
    with monkeypatch.context() as patch:
        killed = Mock(wraps=write_imported, side_effect=[DEFAULT, KeyboardInterrupt])
        patch.setattr("worker.uses.log_imports.write_imported", killed)
        assert isinstance(log.run(log.path).exception, SystemExit)
    assert len(log.recorded()) == 8
    again = log.import_again()
    assert (again["known"], again["downloads"]) == (4, 2)
    assert len(log.recorded()) == 10


def test_lines_that_fit_no_grant_are_counted_by_reason(log: AccessLog) -> None:
    id_ = log.grant_id
    lines = [
        aws_line(id_, key="acme/other.pdf"),
        aws_line(id_.replace(".0", ".7")),
        aws_line(id_, auth="-", query=f"x-grant-id={id_}"),
        aws_line(id_, status="403"),
        b"x-grant-id=" + b"\xff" * 40 + b"\n",
    ]
    result = log.import_(after=b"".join(lines))
    assert result["ignored"] == {"other_key": 1, "unknown_grant": 1}
    assert result["skipped"] == {"unsigned": 1, "failed": 1, "malformed": 1}
    assert log.recorded() == []
    text = log.run(log.path, log.path).output
    assert "0 downloads recorded; read 0 lines of 2 logs" in text


def test_a_file_whose_name_is_not_utf8_is_imported(log: AccessLog) -> None:
    log.path = log.path.with_name(os.fsdecode(b"log-\xff"))
    assert log.import_("R1")["downloads"] == 1


def test_a_download_that_cannot_be_stored_stops_no_other(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(reports: list[UseReport], context: Context) -> RecordedUses:
        if any(report.request_id in {"R3", "R9"} for report in reports):
            raise OverflowError
        return record_uses(reports, context)

    monkeypatch.setattr(log_imports, "record_uses", record)
    result = log.import_(*TEN)
    assert (result["downloads"], result["ignored"]) == (8, {"unstorable": 2})
    assert len(log.recorded()) == 8
    assert log.import_again()["lines"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        aws_line(sent="9" * 30),
        b'{"x-grant-id=":' + b"[" * 60_000 + b"\n",
        rgw_line().replace(b"curl/8.5", rb"\ud800\u0000"),
        aws_line(agent="a\0b"),
    ],
)
def test_no_line_ends_an_import(log: AccessLog, bad: bytes) -> None:
    bad = bad.replace(GRANT_ID.encode(), log.grant_id.encode())
    result = log.import_("R1", after=bad + log.lines("R2"))
    assert (result["lines"], result["downloads"] + result["skipped"].get("malformed", 0)) == (3, 3)


def test_the_end_of_a_line_that_is_too_long_is_no_line_of_its_own(log: AccessLog) -> None:
    result = log.import_("R1", "R2", before=b"x-grant-id=".ljust(MAX_LINE_BYTES + 1, b"x"))
    assert (result["lines"], result["downloads"], result["skipped"]) == (2, 1, {"malformed": 1})


def ignored(log: AccessLog, query: str) -> Any:
    """Import a download with a query, and return why it is none."""
    name = sha256(query.encode()).hexdigest()
    log.path = log.path.with_name(name)
    result = log.import_(after=aws_line(query=query, request_id=name))
    assert result["downloads"] == 1 - len(result["ignored"])
    return result["ignored"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param("{query}", {}, id="a link of the service is a download"),
        pytest.param("{stranger}", OTHER_SIGNER, id="a url that another key signed is none"),
        *(
            pytest.param(
                SIGNER.format(name) + "{query}", OTHER_SIGNER, id=f"{name} hides no other signer"
            )
            for name in ("X-Amz-Credential", "x-amz-credential", "X-Amz-%43redential")
        ),
        pytest.param(
            "x-grant-id={id}&AWSAccessKeyId=AKIDSTRANGER&Expires=1&Signature=a",
            OTHER_SIGNER,
            id="a url of the older signature is no grant of the service",
        ),
        pytest.param(
            "x-grant-id={id}&X-Amz-Credential=HIDDEN",
            {},
            id="a signer that storage masks tells nothing",
        ),
    ],
)
def test_only_urls_that_the_service_may_have_signed_are_downloads(
    log: AccessLog, template: str, reason: dict[str, int]
) -> None:
    (grant,) = log.service.issue(grant_message([KEY]))["items"]
    query = urlsplit(grant["url"]).query
    stranger = query.replace("AKIDEXAMPLE", "AKIDSTRANGER")
    assert ignored(log, template.format(id=grant["id"], query=query, stranger=stranger)) == reason


def test_each_of_the_keys_that_signed_a_grant_is_its_signer(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, service = grant_message([KEY]), log.service
    first = urlsplit(service.issue(message)["items"][0]["url"]).query
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    restarted = build_service(service.engine, S3Clients(), service.clock)
    later = urlsplit(restarted.issue(message)["items"][0]["url"]).query
    assert "AKIDLATER" in later
    assert [ignored(log, first), ignored(log, later)] == [{}, {}]
