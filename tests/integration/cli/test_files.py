"""Requests for the rows of a file, `--from`: invalid rows, and the columns of the output."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.interrupted_download import lose_chunk
from tests.support.cli.producer_commands import Cli, read_csv
from tests.support.docs.command_lines import ROOT
from tests.support.fakes.fake_service import running_fake_service
from valetkey.cli.terminal_text import program_command
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

REPEATED = "it repeats the object of line 2: name each object once for each recipient"
ROWS = "key,filename,expires_in\na,,\nb,x.pdf,15m\nno/c,,\na,,\nd,,900\ne\n"
DOWNLOAD = ("download", "reports", "--from")


def test_each_row_has_its_result_in_the_order_of_the_file(cli: Cli) -> None:
    Path("keys.csv").write_text(ROWS)
    result = cli(*DOWNLOAD, "keys.csv", "--out", "links.csv")
    rows = read_csv("links.csv")
    assert [(row["key"], bool(row["url"]), row["refused"], row["field"]) for row in rows] == [
        ("a", True, "", ""),
        ("b", True, "", ""),
        ("no/c", False, "key_outside_prefix", "rows[4].key"),
        ("a", False, "malformed", "rows[5].key"),
        ("d", True, "", ""),
        ("", False, "malformed", "rows[7]"),
    ]
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:3] == [
        f"keys.csv, line 5, column key: malformed: {REPEATED}",
        "keys.csv, line 7: malformed: it has 1 cells, but the header in line 1 has 3",
        "keys.csv, line 4, column key: refused 'no/c': key_outside_prefix: outside",
    ]


def test_rows_with_the_same_expiry_are_one_batch(cli: Cli) -> None:
    Path("keys.csv").write_text(ROWS)
    cli(*DOWNLOAD, "keys.csv", "--expires-in", "2h", "--json")
    messages = sorted(cli.messages, key=lambda message: str(message["items"][0]["key"]))
    assert [(m["grant"]["expires_in"], m["total"], m["chunk_size"]) for m in messages] == [
        (7200, 2, 300),
        (900, 2, 300),
    ]
    assert messages[1]["items"] == [{"key": "b", "filename": "x.pdf"}, {"key": "d"}]


def test_strict_requests_nothing_if_a_row_is_invalid(cli: Cli) -> None:
    result = cli(*DOWNLOAD, "-", "--strict", "--out", "links.csv", stdin=b"a\n\xff\nb\n")
    assert (result.exit_code, cli.messages, list(Path().iterdir())) == (2, [], [])
    assert "stdin, line 2, column key: malformed: its key is not valid UTF-8" in result.stderr
    assert "nothing was requested: 1 of 3 rows are invalid, and --strict is set" in result.stderr


def test_the_first_of_many_invalid_rows_are_reported_and_all_are_written(cli: Cli) -> None:
    result = cli(*DOWNLOAD, "-", "--out", "links.jsonl", stdin="\n" * 10_000 + "a\n")
    results = [json.loads(line) for line in Path("links.jsonl").read_text().splitlines()]
    assert (result.exit_code, len(results), results[-1]["key"]) == (1, 10_001, "a")
    assert {refusal["code"] for refusal in results[:-1]} == {"key_empty"}
    assert len(result.stderr.splitlines()) == 12
    assert result.stderr.splitlines()[-2] == "and 9,990 more rows are invalid"


def test_without_a_valid_row_nothing_is_requested(cli: Cli) -> None:
    result = cli(*DOWNLOAD, "-", "--json", stdin="\n\n")
    assert (result.exit_code, len(result.stdout.splitlines()), cli.messages) == (1, 2, [])


def test_without_a_valid_row_there_is_nothing_to_explain(cli: Cli) -> None:
    result = cli(*DOWNLOAD, "-", "--dry-run", stdin="\n")
    assert (result.exit_code, result.stdout, cli.messages) == (2, "", [])
    assert "no row is valid: there is nothing to explain" in result.stderr


def test_a_dry_run_explains_the_batch_of_the_first_valid_row(cli: Cli) -> None:
    explanation = {"status": "explained", "decision": "issue", "rules": []}
    words = (*DOWNLOAD, "-", "--format", "csv", "--dry-run")
    rows = "key,expires_in\n,\na,15m\nb,\n"
    assert "It would be issued." in cli(*words, stdin=rows, decide=lambda _: explanation).stdout
    (message,) = cli.messages
    assert (message["ask"], message["total"], message["grant"]["expires_in"]) == ("explain", 1, 900)


@pytest.mark.parametrize(
    ("words", "terms", "lines"),
    [
        ("upload inbox --max-size 5MB --json", {"max_size": 5_000_000}, 2),
        ("put inbox --overwrite --csv", {"max_size": 5_000, "overwrite": True}, 3),
    ],
)
def test_slots_are_requested_from_a_file(
    cli: Cli, words: str, terms: dict[str, Any], lines: int
) -> None:
    Path("keys.csv").write_text("key,size,checksum\na,5KB,crc32:AAAAAA==\nb,7,\n")
    result = cli(*words.split(), "--from", "keys.csv")
    (message,) = cli.messages
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    items = [{"key": "a", "size": 5_000, "checksum": checksum}, {"key": "b", "size": 7}]
    assert (result.exit_code, message["items"]) == (0, items)
    assert message["grant"].items() >= terms.items()
    assert len(result.stdout.splitlines()) == lines


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


@pytest.fixture
def csv_rows(cli: Cli) -> Cli:
    text = 'mail,key,expires_in,note\na@x,a,,"1, ""2"""\nb@x,no/b,,\nd@x,d,9d,x\n'
    Path("keys.csv").write_text(text)
    return cli


@pytest.fixture
def json_rows(cli: Cli) -> Cli:
    rows = [
        {"key": "a", "mail": "ä@x", "age": 7},
        {"key": "no/b", "tags": ["x", None]},
        {"key": "c", "mail": None},
    ]
    Path("keys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli


def download(cli: Cli, source: str, out: str) -> list[dict[str, Any]]:
    """Request the rows of a file, and return those of the output."""
    cli("download", "reports", "--from", source, "--out", out)
    if out.endswith(".csv"):
        return list(read_csv(out))
    return [json.loads(line) for line in Path(out).read_text().splitlines()]


@pytest.mark.parametrize(
    ("out", "charged"), [("links.csv", ("no", "yes")), ("links.jsonl", (False, True))]
)
def test_columns_of_a_csv_file_stand_beside_each_result(
    csv_rows: Cli, out: str, charged: tuple[Any, Any]
) -> None:
    no, yes = charged
    rows = download(csv_rows, "keys.csv", out)
    assert list(rows[0])[-3:] == ["charged", "mail", "note"]
    assert [(row["charged"], row["mail"], row["note"]) for row in rows] == [
        (yes, "a@x", '1, "2"'),
        (no, "b@x", ""),
        (no, "d@x", "x"),
    ]


def test_members_of_json_lines_are_copied_as_they_are(json_rows: Cli) -> None:
    first, second, third = download(json_rows, "keys.jsonl", "links.jsonl")
    assert (first["mail"], first["age"], second["tags"]) == ("ä@x", 7, ["x", None])
    assert "ä@x" in Path("links.jsonl").read_text()
    assert ("tags" in first, "mail" in second, third["mail"]) == (False, False, None)


def test_members_of_json_lines_become_columns(json_rows: Cli) -> None:
    rows = download(json_rows, "keys.jsonl", "links.csv")
    assert [(row["mail"], row["age"], row["tags"]) for row in rows] == [
        ("ä@x", "7", ""),
        ("", "", '["x", null]'),
        ("", "", ""),
    ]


@pytest.mark.parametrize("out", ["links.csv", "links.jsonl"])
def test_the_texts_of_a_row_are_sent_and_stand_beside_its_result(cli: Cli, out: str) -> None:
    Path("keys.csv").write_text("key,recipient,ref\na,ann,1\na,bob,2\nno/b,carl,3\n")
    rows = download(cli, "keys.csv", out)
    assert [(row["recipient"], row["ref"]) for row in rows] == [
        ("ann", "1"),
        ("bob", "2"),
        ("carl", "3"),
    ]
    (message,) = cli.messages
    assert message["items"][1] == {"key": "a", "recipient": "bob", "ref": "2"}


def test_one_object_is_not_requested_twice_for_one_recipient(cli: Cli) -> None:
    Path("keys.csv").write_text("key,recipient\na,ann\na,ann\n")
    result = cli("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    assert (result.exit_code, "repeats the object of line 2" in result.stderr) == (1, True)


def test_columns_survive_an_interruption(cli: Cli) -> None:
    keys = [f"k/{n}" for n in range(2 * DEFAULT_CHUNK_ITEMS)]
    Path("keys.csv").write_text("key,mail\n" + "".join(f"{key},{key}@x\n" for key in keys))
    words = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    assert cli(*words, "--timeout", "2s", plan=lose_chunk(1)).exit_code == 3
    assert cli(*words, "--resume").exit_code == 0
    rows = read_csv("links.csv")
    assert [(row["key"], row["mail"]) for row in rows] == [(key, f"{key}@x") for key in keys]


def test_the_summary_counts_refusals_by_code_and_names_the_file(csv_rows: Cli) -> None:
    result = csv_rows("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    *_, summary, hint, command = result.stderr.splitlines()
    assert summary.startswith(
        "links.csv: 1 granted (charged), 2 refused "
        "(not charged: 1 expiry_invalid, 1 key_outside_prefix), in "
    )
    text = "the next command requests the refused rows again, and needs links.csv.resume.json"
    assert hint == text
    words = "download reports --from keys.csv --out links.csv --resume"
    assert command == f"Next: {program_command('valetkey')} {words}"


def test_a_reader_that_closes_stdout_gets_no_traceback(broker: str) -> None:
    Path("keys.txt").write_text("".join(f"{'k' * 900}{n}\n" for n in range(DEFAULT_CHUNK_ITEMS)))
    reader, writer = os.pipe()
    os.close(reader)
    program = "from valetkey.cli.main import main; main()"
    command = [sys.executable, "-c", program, "download", "reports", "--from", "keys.txt"]
    with running_fake_service(broker):
        result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)  # noqa: PLW1510
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == (
        "the reader of stdout closed it: the rows requested so far are charged; with --out, "
        "no result is lost\n"
    )


@needs_full
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("valetkey.cli.main", ("download", "reports", "--from", "keys.txt")),
        ("worker.__main__", ("contract", "requests")),
        ("valetkey.cli.main", ("--version",)),
        ("worker.__main__", ("--help",)),
    ],
)
def test_a_full_disk_is_one_sentence(broker: str, module: str, arguments: tuple[str, ...]) -> None:
    Path("keys.txt").write_text("a\nb\n")
    program = f"from {module} import main; main()"
    with running_fake_service(broker), FULL.open("w") as stdout:
        result = subprocess.run(  # noqa: PLW1510
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 5
    assert result.stderr.splitlines()[-1] == "Error: stdout: No space left on device"
    assert "Traceback" not in result.stderr
