"""Single requests, `valetkey service`, and the check of the service before a file."""

import json
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.builders.replies import LIMITS
from tests.support.cli.interrupted_download import lose_chunk, run_cli
from tests.support.cli.producer_commands import Cli
from tests.support.fakes.fake_service import describe_today, grant_outcome, refuse_outcome
from tests.support.servers.waiting import wait_until
from valetkey.wire import RELEASE
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

UPLOAD = ("upload", "inbox", "a/cat.jpg", "--max-size", "5MB")
DATE = "Thu, 26 Nov 2026 00:00:00 GMT"
DIGEST = "7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="  # of the file cat.jpg


@pytest.mark.parametrize("words", [("download", "reports", "a.pdf"), ("presign", "s3://reports/a")])
def test_a_single_link_is_printed_alone(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert (result.exit_code, result.output) == (0, "http://127.0.0.1/reports/0\n")


def test_a_refused_presign_prints_no_link(cli: Cli) -> None:
    result = cli("presign", "s3://reports/no/a.pdf")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "refused 'no/a.pdf': key_outside_prefix in items[0].key: outside\n"


def test_several_links_are_printed_with_their_keys(cli: Cli) -> None:
    result = cli("download", "reports", "--from", "-", stdin="a b\nü\n")
    assert result.stdout == "a b\thttp://127.0.0.1/reports/0\nü\thttp://127.0.0.1/reports/1\n"


def test_a_refusal_is_explained_on_stderr(cli: Cli) -> None:
    result = cli("download", "reports", "a", "no/\x1b[31m", "--json")
    grant, refusal = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, grant["key"], refusal["code"]) == (1, "a", "key_outside_prefix")
    assert result.stderr == "refused 'no/\\x1b[31m': key_outside_prefix in items[1].key: outside\n"


def test_only_the_first_refusals_are_explained(cli: Cli) -> None:
    result = cli("download", "reports", *(f"no/{n}" for n in range(13)))
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.endswith("and 3 more were refused: --json and --csv list them all\n")


def test_a_quota_is_explained_once_for_the_whole_batch(cli: Cli) -> None:
    result = cli("download", "reports", "a", "b", "c", decide=refuse_outcome)
    assert result.exit_code == 1
    assert result.stderr == (
        "refused the request: quota_exceeded in total: over quota; the limit is 100 grants per "
        "day: 90 used, 3 requested; the quota resets at 2026-11-25 00:00 UTC\n"
    )


def test_an_output_file_is_private_and_its_ending_determines_the_format(cli: Cli) -> None:
    Path("keys.csv").write_text("key,filename\na,b.pdf\n")
    result = cli("download", "reports", "--from", "keys.csv", "--out", "links.jsonl")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(Path("links.jsonl").read_text())["key"] == "a"
    assert stat.S_IMODE(Path("links.jsonl").stat().st_mode) == 0o600
    assert cli.messages[0]["items"] == [{"key": "a", "filename": "b.pdf"}]


def test_without_a_response_the_exit_code_is_3_and_earlier_rows_are_kept(cli: Cli) -> None:
    keys = [f"k{number}" for number in range(DEFAULT_CHUNK_ITEMS + 1)]
    options = ("--out", "links", "--timeout", "2s")
    result = cli("download", "reports", *keys, *options, plan=lose_chunk(1))
    assert (result.exit_code, Path("links").exists()) == (3, False)
    assert "to 1 of 601 items: a worker took it from" in result.stderr
    assert "the rows written so far are in links.partial" in result.stderr
    assert len(Path("links.partial").read_text().splitlines()) == DEFAULT_CHUNK_ITEMS


OPTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "presign": (
        "presign 's3://reports/a b?#%41.pdf' --expires-in 90",
        {"kind": "download", "bucket": "reports", "expires_in": 90},
        {"key": "a b?#%41.pdf"},
        "http://",
    ),
    "download": (
        f"""download reports a.pdf --version-id v1 --head --inline --expires '{DATE}' --check-owner
        --cache-control no-store --content-language de --content-encoding gzip""",
        {"kind": "download", "bucket": "reports", "expires_in": 3600, "method": "HEAD"}
        | {"inline": True, "expires": DATE, "check_owner": True}
        | {"cache_control": "no-store", "content_language": "de", "content_encoding": "gzip"},
        {"key": "a.pdf", "version_id": "v1"},
        "HEAD http://127.0.0.1/reports/0\n",
    ),
    "a plain link": (
        "download reports a.pdf --plain",
        {"kind": "download", "bucket": "reports", "expires_in": 3600, "plain": True},
        {"key": "a.pdf"},
        "http://",
    ),
    "upload": (
        """upload inbox a/cat.jpg --max-size 5MB --min-size 1KiB --expires-in 5m --meta a=b=c
        --min-expires-in 60 --content-type image/jpeg --acl public-read --success-status 201
        --checksum crc32:AAAAAA==""",
        {"kind": "upload", "bucket": "inbox", "max_size": 5_000_000, "min_size": 1024}
        | {"expires_in": 300, "min_expires_in": 60, "content_type": "image/jpeg"}
        | {"acl": "public-read", "metadata": {"a": "b=c"}, "success_status": 201},
        {"key": "a/cat.jpg", "checksum": {"algorithm": "crc32", "value": "AAAAAA=="}},
        "POST http://127.0.0.1/reports/0\n  key     a/cat.jpg\n",
    ),
    "put": (
        """put inbox a/cat.jpg --file cat.jpg --sha256 --overwrite --content-type image/jpeg
        --tag a=b --meta c=d --check-owner --storage-class GLACIER_IR
        --encryption arn:aws:kms:eu-west-1:1:key/k""",
        {"kind": "put", "bucket": "inbox", "expires_in": 3600, "max_size": 7, "overwrite": True}
        | {"check_owner": True, "content_type": "image/jpeg", "tags": {"a": "b"}}
        | {"metadata": {"c": "d"}, "storage_class": "GLACIER_IR"}
        | {"encryption": {"algorithm": "aws:kms", "key": "arn:aws:kms:eu-west-1:1:key/k"}},
        {"key": "a/cat.jpg", "size": 7, "checksum": {"algorithm": "sha256", "value": DIGEST}},
        "PUT http://127.0.0.1/reports/0\n  content-type    image/jpeg\n",
    ),
}


@pytest.mark.parametrize(("words", "grant", "item", "printed"), OPTIONS.values(), ids=OPTIONS)
def test_the_options_of_a_command_are_sent(
    cli: Cli, words: str, grant: dict[str, Any], item: dict[str, Any], printed: str
) -> None:
    Path("cat.jpg").write_bytes(b"content")
    result = cli(*shlex.split(words))
    (message,) = cli.messages
    assert (message["grant"], message["items"]) == (grant, [item])
    assert result.stdout.startswith(printed)


def test_the_origin_of_a_request_is_sent(cli: Cli) -> None:
    origin = {"callback": "billing", "reason": "tests", "requested_by": "me"}
    origin |= {"recipient": "Ada", "tenant": "other"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in origin.items()]
    cli(*UPLOAD, *words)
    assert {name: cli.messages[0][name] for name in origin} == origin


def test_a_form_is_printed_with_instructions(cli: Cli) -> None:
    note = "With --curl this is a command, with --html a page, with --js a script."
    assert note in cli(*UPLOAD).stdout


def test_a_multipart_upload_with_a_size_is_only_started(cli: Cli) -> None:
    result = cli("multipart", "inbox", "a", "--size", "1GiB", "--part-size", "64MiB")
    plan = json.loads(result.stdout)["multipart"]
    assert (plan["part_size"], plan["part_count"]) == (64 * 1024**2, 16)
    assert [message["grant"]["kind"] for message in cli.messages] == ["multipart"]


WARNING = (
    "warning: 4 bytes of 5 bytes of archive per week used, 1 byte left; "
    "capacity becomes free as grants expire"
)
BULK = ("download", "reports", "--from", "keys.txt", "--json")


def describe(**changes: Any) -> Any:
    """Return a function that describes a service with some changes to today's description."""
    return lambda message: describe_today(message) | changes


@pytest.fixture(autouse=True)
def _keys(broker: str) -> None:  # noqa: ARG001 - the broker's working directory
    Path("keys.txt").write_text("a\nb\n", encoding="utf-8")


def test_the_service_is_a_table(cli: Cli) -> None:
    result = cli("service")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split("  ")[0]: line.rstrip() for line in result.stdout.splitlines() if line}
    ends = {
        "release": RELEASE,
        "wire versions": "1",
        "max_batch_items": " 1,000,000",
        "max_object_bytes": " 5 GiB (5,368,709,120 bytes)",
        "max_expires_in": " 7 days",
    }
    assert [name for name, end in ends.items() if not lines[name].endswith(end)] == []


def test_the_service_is_printed_as_json(cli: Cli) -> None:
    assert json.loads(cli("service", "--json").stdout)["limits"]["max_chunk_items"] == 1_000


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"kinds": ["upload"]}, "kind_not_allowed in grant.kind"),
        ({"versions": [2, 3]}, "version_unknown in v"),
        ({"limits": LIMITS | {"max_chunk_items": 599}}, "chunk_invalid in chunk_size"),
        ({"limits": LIMITS | {"max_chunk_items": 600, "max_batch_items": 1}}, "batch_too_large"),
    ],
)
def test_a_file_that_the_service_cannot_read_is_refused_before_anything_is_sent(
    cli: Cli, changes: dict[str, Any], refusal: str
) -> None:
    result = cli(*BULK, describe=describe(**changes, release="0.0.9"))
    assert (result.exit_code, result.stdout, cli.messages) == (1, "", [])
    assert refusal in result.stderr
    assert "it is release 0.0.9" in result.stderr


def test_a_file_is_requested_although_the_service_refuses_to_describe_itself(cli: Cli) -> None:
    refusal = {"code": "signature_required", "field": "", "message": "no"}
    reply = {"batch": "", "chunk": 0, "status": "refused", "refusal": refusal}
    result = cli(*BULK, describe=lambda _: reply)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("words", "described", "sent"),
    [
        ((*BULK, "--batch-size", "1"), 1, 2),
        (("download", "reports", "a"), 0, 1),
        ((*BULK, "--dry-run", "--timeout", "1s"), 0, 1),
    ],
)
def test_a_file_asks_for_the_service_once_and_a_single_key_never(
    cli: Cli, words: tuple[str, ...], described: int, sent: int
) -> None:
    cli(*words)
    assert (cli.service.described, len(cli.messages)) == (described, sent)


def test_a_file_is_put_into_the_queue_although_no_worker_answers(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.bulk_request.SERVICE_TIMEOUT", 0.5)
    with redis.Redis.from_url(broker) as server, ThreadPoolExecutor() as executor:

        def is_put() -> bool:
            frames = map(json.loads, server.lrange("valetkey", 0, -1))
            return any(frame["headers"]["id"].endswith(".0") for frame in frames)

        command = executor.submit(run_cli, *BULK, "--timeout", "2s")
        wait_until(is_put)
        assert command.result().exit_code == 3
        assert not is_put()  # nobody waits for it


def later_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome of a later service: a grant of an unknown method, and an unknown code."""
    outcome = grant_outcome(message)
    grant = outcome["items"][0] | {"method": "QUERY", "limited_by": "weather"}
    refusal = {"code": "storage_busy", "field": "key", "message": "later", "key": "b"}
    quota = {"metric": "archive_bytes", "window": "week", "limit": 5, "used": 4, "warn_at": 3}
    return outcome | {"items": [grant, refusal], "quotas": [quota]}


def test_results_of_a_later_service_are_printed(cli: Cli) -> None:
    as_json = cli(*BULK, decide=later_outcome)
    grant, refusal = map(json.loads, as_json.stdout.splitlines())
    words = (grant["method"], grant["limited_by"], refusal["code"])
    assert words == ("QUERY", "weather", "storage_busy")
    assert as_json.stderr.splitlines()[:-1] == ["refused 'b': storage_busy in key: later", WARNING]
    as_csv = cli("download", "reports", "--from", "keys.txt", "--csv", decide=later_outcome)
    assert "QUERY" in as_csv.stdout
    assert "storage_busy" in as_csv.stdout


@pytest.mark.parametrize("output", ["--curl", "--js"])
def test_a_grant_of_an_unknown_method_is_no_command(cli: Cli, output: str) -> None:
    def decide(message: dict[str, Any]) -> dict[str, Any]:
        outcome = later_outcome(message)
        return outcome | {"items": outcome["items"][:1]}

    result = cli("download", "reports", "a", output, decide=decide)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot use a grant of the method 'QUERY': the service is newer" in result.stderr


def test_a_decision_of_a_later_service_is_printed(cli: Cli) -> None:
    reply = {"status": "explained", "decision": "defer", "rules": []}
    result = cli("download", "reports", "a", "--dry-run", decide=lambda _: reply)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "It would be defer.")
