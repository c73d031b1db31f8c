import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import grant_outcome, refuse_outcome, running_fake_service
from tests.support.fakes.http_storage import running_http_storage
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

ODD = """it's "50%"; a=b,<x>@&amp;ü$(id)`id`\\${y}"""
UPLOAD = ("upload", "inbox", "a/cat.jpg", "--max-size", "5MB")
HEADER_FIELDS = ("callback", "reason", "requested_by", "recipient", "tenant")


def run_cli(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def test_a_single_link_is_printed_alone(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("download", "reports", "a.pdf")
    assert (result.exit_code, result.output) == (0, "http://127.0.0.1/reports/0\n")


def test_presign_prints_the_link_of_a_uri_alone(broker: str) -> None:
    with running_fake_service(broker) as service:
        result = run_cli("presign", "s3://reports/a b?#%41.pdf", "--expires-in", "90")
    assert (result.exit_code, result.output) == (0, "http://127.0.0.1/reports/0\n")
    message = service.received[0][1]
    assert message["grant"] == {"kind": "download", "bucket": "reports", "expires_in": 90}
    assert message["items"] == [{"key": "a b?#%41.pdf"}]


def test_a_refused_presign_prints_no_link(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("presign", "s3://reports/no/a.pdf")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "refused 'no/a.pdf': key_outside_prefix in items[0].key: outside\n"


def test_several_links_are_printed_with_their_keys(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("download", "reports", "--from", "-", stdin="a b\nü\n")
    assert result.stdout == "a b\thttp://127.0.0.1/reports/0\nü\thttp://127.0.0.1/reports/1\n"


def test_a_refusal_is_explained_on_stderr(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("download", "reports", "a", "no/\x1b[31m", "--json")
    grant, refusal = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, grant["key"], refusal["code"]) == (1, "a", "key_outside_prefix")
    assert result.stderr == "refused 'no/\\x1b[31m': key_outside_prefix in items[1].key: outside\n"


def test_only_the_first_refusals_are_explained(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("download", "reports", *(f"no/{n}" for n in range(13)))
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.endswith("and 3 more were refused: --json and --csv list them all\n")


def test_a_quota_is_explained_once_for_the_whole_batch(broker: str) -> None:
    with running_fake_service(broker, decide=refuse_outcome):
        result = run_cli("download", "reports", "a", "b", "c")
    assert result.exit_code == 1
    assert result.stderr == (
        "refused the request: quota_exceeded in total: over quota; the limit is 100 grants per "
        "day: 90 used, 3 requested; the quota resets at 2026-11-25 00:00 UTC\n"
    )


def test_an_output_file_is_private_and_its_ending_determines_the_format(broker: str) -> None:
    Path("keys.csv").write_text("key,filename\na,b.pdf\n")
    with running_fake_service(broker) as service:
        result = run_cli("download", "reports", "--from", "keys.csv", "--out", "links.jsonl")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(Path("links.jsonl").read_text())["key"] == "a"
    assert stat.S_IMODE(Path("links.jsonl").stat().st_mode) == 0o600
    assert service.received[0][1]["items"] == [{"key": "a", "filename": "b.pdf"}]


def test_nothing_is_requested_if_the_output_cannot_be_written(broker: str) -> None:
    with running_fake_service(broker) as service:
        result = run_cli("download", "reports", "a", "b", "--out", "nowhere/links.csv")
    assert (result.exit_code, service.received) == (2, [])
    assert "the folder nowhere does not exist or is not writable" in result.stderr


def test_without_a_response_the_exit_code_is_3_and_earlier_rows_are_kept(broker: str) -> None:
    keys = [f"k{number}" for number in range(DEFAULT_CHUNK_ITEMS + 1)]
    with running_fake_service(broker, lambda message, _: "lose" if message["chunk"] else "answer"):
        options = ("--out", "links", "--timeout", "3s")
        result = run_cli("download", "reports", *keys, *options)
    assert (result.exit_code, Path("links").exists()) == (3, False)
    assert "to 1 of 601 items: a worker took it from" in result.stderr
    assert "the rows written so far are in links.partial" in result.stderr
    assert len(Path("links.partial").read_text().splitlines()) == DEFAULT_CHUNK_ITEMS


def test_the_options_of_an_upload_are_sent(broker: str) -> None:
    arguments = [*UPLOAD, "--min-size", "1KiB", "--expires-in", "5m", "--min-expires-in", "60"]
    arguments += ["--content-type", "image/jpeg", "--acl", "public-read", "--meta", "a=b=c"]
    arguments += ["--callback", "billing", "--reason", "tests", "--requested-by", "me"]
    arguments += ["--recipient", "Ada"]
    with running_fake_service(broker) as service:
        run_cli(*arguments, "--tenant", "other")
    message = service.received[0][1]
    assert message["grant"] == {
        "kind": "upload",
        "bucket": "inbox",
        "max_size": 5_000_000,
        "min_size": 1024,
        "expires_in": 300,
        "min_expires_in": 60,
        "content_type": "image/jpeg",
        "acl": "public-read",
        "metadata": {"a": "b=c"},
    }
    header = [message[name] for name in HEADER_FIELDS]
    assert header == ["billing", "tests", "me", "Ada", "other"]


def test_a_form_is_printed_with_instructions(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli(*UPLOAD)
    assert result.stdout.startswith("POST http://127.0.0.1/reports/0\n  key     a/cat.jpg\n")
    assert "With --curl this is a command, with --html a page, with --js a script." in result.stdout


def test_a_page_is_ready_to_open(broker: str) -> None:
    with running_fake_service(broker):
        assert run_cli(*UPLOAD, "--html").stdout.startswith("<!doctype html>\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_of_a_put_sends_the_file(broker: str) -> None:
    Path(ODD).write_bytes(b"content")
    with running_http_storage() as storage:

        def decide(message: dict[str, Any]) -> dict[str, Any]:
            outcome = grant_outcome(message)
            outcome["items"][0]["url"] = storage.url
            return outcome

        with running_fake_service(broker, decide=decide):
            line = run_cli("put", "inbox", "a/b", "--file", ODD, "--curl").stdout
        subprocess.run(["sh", "-c", line], check=True, capture_output=True)  # noqa: S607 - any sh
    (request,) = storage.received
    assert (request.method, request.body) == ("PUT", b"content")


def test_the_options_of_a_put_are_sent(broker: str) -> None:
    Path("cat.jpg").write_bytes(b"content")
    arguments = ["put", "inbox", "a/cat.jpg", "--file", "cat.jpg", "--sha256", "--overwrite"]
    arguments += ["--content-type", "image/jpeg", "--tag", "a=b", "--meta", "c=d", "--check-owner"]
    arguments += ["--storage-class", "GLACIER_IR", "--encryption", "arn:aws:kms:eu-west-1:1:key/k"]
    with running_fake_service(broker) as service:
        result = run_cli(*arguments)
    message = service.received[0][1]
    assert message["grant"] == {
        "kind": "put",
        "bucket": "inbox",
        "expires_in": 3600,
        "max_size": 7,
        "overwrite": True,
        "check_owner": True,
        "content_type": "image/jpeg",
        "tags": {"a": "b"},
        "metadata": {"c": "d"},
        "storage_class": "GLACIER_IR",
        "encryption": {"algorithm": "aws:kms", "key": "arn:aws:kms:eu-west-1:1:key/k"},
    }
    digest = "7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="
    checksum = {"algorithm": "sha256", "value": digest}
    assert message["items"] == [{"key": "a/cat.jpg", "size": 7, "checksum": checksum}]
    assert result.stdout.startswith(
        "PUT http://127.0.0.1/reports/0\n  content-type    image/jpeg\n"
    )


def test_a_checksum_is_sent_unchanged(broker: str) -> None:
    with running_fake_service(broker) as service:
        run_cli(
            *UPLOAD, "--checksum", "crc32:AAAAAA==", "--success-status", "201", "--min-size", "1"
        )
    message = service.received[0][1]
    assert message["items"][0]["checksum"] == {"algorithm": "crc32", "value": "AAAAAA=="}
    assert message["grant"]["success_status"] == 201


def test_the_options_of_a_download_are_sent(broker: str) -> None:
    date = "Thu, 26 Nov 2026 00:00:00 GMT"
    options = ["--head", "--inline", "--cache-control", "no-store", "--expires", date]
    options += ["--content-language", "de", "--content-encoding", "gzip", "--check-owner"]
    with running_fake_service(broker) as service:
        result = run_cli("download", "reports", "a.pdf", "--version-id", "v1", *options)
    message = service.received[0][1]
    assert message["grant"] == {
        "kind": "download",
        "bucket": "reports",
        "expires_in": 3600,
        "method": "HEAD",
        "inline": True,
        "cache_control": "no-store",
        "expires": date,
        "content_language": "de",
        "content_encoding": "gzip",
        "check_owner": True,
    }
    assert message["items"] == [{"key": "a.pdf", "version_id": "v1"}]
    assert result.stdout.startswith("HEAD http://127.0.0.1/reports/0\n")


def test_a_plain_link_is_requested_without_other_terms(broker: str) -> None:
    with running_fake_service(broker) as service:
        run_cli("download", "reports", "a.pdf", "--plain")
        run_cli("download", "reports", "a.pdf")
    plain, other = (message["grant"] for _, message in service.received)
    assert plain == {**other, "plain": True}
    assert "plain" not in other


def test_a_multipart_upload_with_a_size_is_only_started(broker: str) -> None:
    with running_fake_service(broker) as service:
        result = run_cli("multipart", "inbox", "a", "--size", "1GiB", "--part-size", "64MiB")
    plan = json.loads(result.stdout)["multipart"]
    assert (plan["part_size"], plan["part_count"]) == (64 * 1024**2, 16)
    assert [message["grant"]["kind"] for _, message in service.received] == ["multipart"]
