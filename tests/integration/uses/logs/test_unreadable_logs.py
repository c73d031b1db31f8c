"""Sources and logs that cannot be read: each is named, and stops no other."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.uses.logs.conftest import AccessLog, Import, numbers
from tests.support.builders.messages import tenant_config
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.uses.access_logs import aws_line, rgw_line
from tests.support.uses.use_service import UseService
from worker.rules.tenant_config import TenantConfig
from worker.uses.log_imports import LogFile

# What can be read depends on no database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with logs that are none."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("cut.gz").write_bytes(gzip.compress(aws_line() * 99)[:60])
    Path("text.gz").write_bytes(aws_line())
    Path("notes.txt").write_text("buy milk\ncall the bank\n")
    Path("binary").write_bytes(bytes(range(256)) * 9)
    Path("seaweed.log").write_text('{"bucket": "demo", "operation": "GET", "key": "a"}\n')
    Path("empty").mkdir()
    os.mkfifo("pipe")
    return folder


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.log", "absent.log: No such file or directory"),
        ("s3://nowhere/x", "s3://nowhere/x: there is no bucket profile 'nowhere'"),
        ("s3://dem/x", "there is no bucket profile 'dem': did you mean 'demo'?"),
        ("cut.gz", "cut.gz: not compressed as its name says, or cut off"),
        ("notes.txt", "notes.txt: no line looks like one of an access log"),
        ("seaweed.log", "seaweed.log: no line looks like one of an access log"),
        ("pipe", "pipe: no regular file: write what it contains to one"),
        ("empty", "empty: no logs"),
    ],
)
def test_a_source_that_cannot_be_read_is_named_and_stops_no_other(
    log: AccessLog, source: str, message: str
) -> None:
    log.path.write_bytes(log.lines("R1"))
    result = log.run(source, log.path)
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert message in result.output
    assert "The same command continues" not in result.output
    assert len(log.recorded()) == 1


def test_a_log_of_a_folder_that_cannot_be_read_stops_no_other(log: AccessLog) -> None:
    Path("x.log").write_bytes(log.lines("R1"))
    result = log.run(".", "--json")
    assert (result.exit_code, len(log.recorded())) == (1, 1)
    assert '"failed": 5' in result.stdout


@pytest.mark.parametrize(("words", "message"), [(("",), "a SOURCE is empty"), ((), "SOURCE")])
def test_a_source_is_required_and_an_empty_one_is_not_the_current_folder(
    log: AccessLog, words: tuple[str, ...], message: str
) -> None:
    result = log.run(*words)
    assert (result.exit_code, log.recorded()) == (2, [])
    assert message in result.output


def test_a_file_that_is_removed_meanwhile_stops_no_other(
    log: AccessLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = folder / "logs"
    logs.mkdir()
    for name in ("1.log", "2.log"):
        (logs / name).write_bytes(log.lines(name))
    mark = LogFile.mark

    def remove_and_mark(file: LogFile) -> str:
        (logs / "1.log").unlink(missing_ok=True)
        return mark(file)

    monkeypatch.setattr(LogFile, "mark", remove_and_mark)
    result = log.run("logs", "--json")
    assert "1.log: skipped, because it was removed meanwhile" in result.stderr
    assert numbers(result)["downloads"] == 1


def test_a_prefix_without_objects_is_no_success(run: Import, service: UseService) -> None:
    page = StorageResponse(200, {"content-type": "application/xml"}, b"<ListBucketResult/>")
    config = tenant_config()
    with running_http_storage(lambda _: page) as server:
        profile = replace(config.buckets["demo"], endpoint=server.url)
        service.apply(TenantConfig({"demo": profile}, config.tenants))
        result = run("s3://demo/no-such-prefix/")
    assert result.exit_code == 1
    assert "s3://demo/no-such-prefix/: no logs" in result.output


def test_a_log_whose_lines_are_no_downloads_is_a_log(run: Import) -> None:
    Path("aws.log").write_bytes(aws_line(operation="REST.PUT.OBJECT"))
    Path("rgw.log").write_bytes(rgw_line())
    assert numbers(run("aws.log", "rgw.log", "--json"))["failed"] == 0
