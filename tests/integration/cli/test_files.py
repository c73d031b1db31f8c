"""Requests for the rows of a file, `--from`, and reports of invalid rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.cli.interrupted_download import read_csv
from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from valetkey.cli.main import main

REPEATED = "it repeats the object of line 2: name each object once"
ROWS = "key,filename,expires_in\na,,\nb,x.pdf,15m\nno/c,,\na,,\nd,,900\ne\n"


def run_cli(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def test_each_row_has_its_result_in_the_order_of_the_file(broker: str) -> None:
    Path("keys.csv").write_text(ROWS)
    with running_fake_service(broker):
        result = run_cli("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    rows = read_csv("links.csv")
    assert [row["key"] for row in rows] == ["a", "b", "no/c", "a", "d", ""]
    assert [bool(row["url"]) for row in rows] == [True, True, False, False, True, False]
    assert [row["refused"] for row in rows if row["refused"]] == [
        "key_outside_prefix",
        "malformed",
        "malformed",
    ]
    assert (rows[3]["field"], rows[5]["field"]) == ("rows[5].key", "rows[7]")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:3] == [
        f"keys.csv, line 5, column key: malformed: {REPEATED}",
        "keys.csv, line 7: malformed: it has 1 cells, but the header in line 1 has 3",
        "keys.csv, line 4, column key: refused 'no/c': key_outside_prefix: outside",
    ]


def test_rows_with_the_same_expiry_are_one_batch(broker: str) -> None:
    Path("keys.csv").write_text(ROWS)
    with running_fake_service(broker) as service:
        run_cli("download", "reports", "--from", "keys.csv", "--expires-in", "2h", "--json")
    messages = sorted((m for _, m in service.received), key=lambda m: str(m["items"][0]["key"]))
    assert [(m["grant"]["expires_in"], m["total"], m["chunk_size"]) for m in messages] == [
        (7200, 2, 300),
        (900, 2, 300),
    ]
    assert [item["key"] for item in messages[1]["items"]] == ["b", "d"]
    assert messages[1]["items"][0]["filename"] == "x.pdf"


def test_many_rows_are_several_batches(broker: str) -> None:
    keys = "".join(f"k{n}\n" for n in range(7))
    with running_fake_service(broker) as service:
        result = run_cli("download", "reports", "--from", "-", "--batch-size", "3", stdin=keys)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == keys.split()
    assert [message["total"] for _, message in service.received] == [3, 3, 1]


def test_strict_requests_nothing_if_a_row_is_invalid(broker: str) -> None:
    with running_fake_service(broker) as service:
        options = ("--from", "-", "--strict", "--out", "links.csv")
        result = run_cli("download", "reports", *options, stdin=b"a\n\xff\nb\n")
    assert (result.exit_code, service.received, list(Path().iterdir())) == (2, [], [])
    assert "stdin, line 2, column key: malformed: its key is not valid UTF-8" in result.stderr
    assert "nothing was requested: 1 of 3 rows are invalid, and --strict is set" in result.stderr


def test_the_first_of_many_invalid_rows_are_reported_and_all_are_written(broker: str) -> None:
    with running_fake_service(broker):
        options = ("--from", "-", "--out", "links.jsonl")
        result = run_cli("download", "reports", *options, stdin="\n" * 10_000 + "a\n")
    results = [json.loads(line) for line in Path("links.jsonl").read_text().splitlines()]
    assert (result.exit_code, len(results), results[-1]["key"]) == (1, 10_001, "a")
    assert {refusal["code"] for refusal in results[:-1]} == {"key_empty"}
    assert len(result.stderr.splitlines()) == 12
    assert result.stderr.splitlines()[-2] == "and 9,990 more rows are invalid"


def test_without_a_valid_row_nothing_is_requested(broker: str) -> None:
    with running_fake_service(broker) as service:
        result = run_cli("download", "reports", "--from", "-", "--json", stdin="\n\n")
    assert (result.exit_code, len(result.stdout.splitlines()), service.received) == (1, 2, [])


@pytest.mark.usefixtures("broker")
def test_without_a_valid_row_there_is_nothing_to_explain() -> None:
    result = run_cli("download", "reports", "--from", "-", "--dry-run", stdin="\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no row is valid: there is nothing to explain" in result.stderr


def test_the_format_of_stdin_is_an_option(broker: str) -> None:
    rows = "key,owner\na,me\n"
    with running_fake_service(broker):
        options = ("--from", "-", "--format", "csv", "--ignore-columns", "owner")
        result = run_cli("download", "reports", *options, stdin=rows)
    assert result.stdout == "a\thttp://127.0.0.1/reports/0\n"


@pytest.mark.usefixtures("broker")
def test_a_misspelt_column_is_refused_before_any_request() -> None:
    Path("keys.csv").write_text("key,exprires-in\na,1h\n")
    result = run_cli("download", "reports", "--from", "keys.csv")
    assert result.exit_code == 2
    assert (
        "keys.csv, line 1: the unknown column `exprires-in` resembles `expires_in`: correct it, or "
        "copy it to the output with --copy-columns exprires-in, or leave it out with "
        "--ignore-columns exprires-in; known names are key, filename"
    ) in result.stderr


def test_a_quota_is_explained_once_for_all_batches(broker: str) -> None:
    keys = "".join(f"k{n}\n" for n in range(6))
    with running_fake_service(
        broker, decide=lambda message: refuse_outcome(message | {"total": 9})
    ):
        options = ("--from", "-", "--batch-size", "2", "--json")
        result = run_cli("download", "reports", *options, stdin=keys)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 6)
    assert result.stderr.count("refused the request: quota_exceeded in total") == 1
    assert len(result.stderr.splitlines()) == 2


def test_a_dry_run_explains_the_batch_of_the_first_valid_row(broker: str) -> None:
    explanation = {"status": "explained", "decision": "issue", "rules": []}
    with running_fake_service(broker, decide=lambda _: explanation) as service:
        options = ("--from", "-", "--format", "csv", "--dry-run")
        result = run_cli("download", "reports", *options, stdin="key,expires_in\n,\na,15m\nb,\n")
    assert "It would be issued." in result.stdout
    ((_, message),) = service.received
    assert (message["ask"], message["total"], message["grant"]["expires_in"]) == ("explain", 1, 900)


@pytest.fixture
def stored_rows() -> dict[str, Any]:
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    rows = "key,size,checksum\na,5KB,crc32:AAAAAA==\nb,7,\n"
    Path("keys.csv").write_text(rows)
    return {"items": [{"key": "a", "size": 5_000, "checksum": checksum}, {"key": "b", "size": 7}]}


def test_forms_are_requested_from_a_file(broker: str, stored_rows: dict[str, Any]) -> None:
    with running_fake_service(broker) as service:
        options = ("--from", "keys.csv", "--max-size", "5MB", "--out", "forms.jsonl")
        result = run_cli("upload", "inbox", *options)
    ((_, message),) = service.received
    assert (result.exit_code, message["items"]) == (0, stored_rows["items"])
    assert message["grant"]["max_size"] == 5_000_000
    assert Path("forms.jsonl").read_text().count('"method":"POST"') == 2


def test_puts_are_requested_from_a_file(broker: str, stored_rows: dict[str, Any]) -> None:
    with running_fake_service(broker) as service:
        result = run_cli("put", "inbox", "--from", "keys.csv", "--overwrite", "--csv")
    ((_, message),) = service.received
    assert (result.exit_code, message["items"]) == (0, stored_rows["items"])
    assert (message["grant"]["max_size"], message["grant"]["overwrite"]) == (5_000, True)
    assert len(result.stdout.splitlines()) == 3
