"""Rows of an output: what was charged, and the columns that are copied from the input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli.interrupted_download import read_csv, run_cli
from tests.support.docs.command_lines import ROOT
from tests.support.fakes.fake_service import running_fake_service
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def read_json(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def download(source: str, out: str) -> None:
    run_cli("download", "reports", "--from", source, "--out", out)


@pytest.fixture
def csv_rows(broker: str) -> str:
    text = 'mail,key,expires_in,note\na@x,a,,"1, ""2"""\nb@x,no/b,,\nd@x,d,9d,x\n'
    Path("keys.csv").write_text(text)
    return broker


@pytest.fixture
def json_rows(broker: str) -> str:
    rows = [
        {"key": "a", "mail": "ä@x", "age": 7},
        {"key": "no/b", "tags": ["x", None]},
        {"key": "c", "mail": None},
    ]
    Path("keys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return broker


def test_columns_of_a_csv_file_stand_beside_each_result(csv_rows: str) -> None:
    with running_fake_service(csv_rows):
        download("keys.csv", "links.csv")
    rows = read_csv("links.csv")
    assert list(rows[0])[-3:] == ["charged", "mail", "note"]
    assert [(row["charged"], row["mail"], row["note"]) for row in rows] == [
        ("yes", "a@x", '1, "2"'),
        ("no", "b@x", ""),
        ("no", "d@x", "x"),
    ]


def test_columns_of_a_csv_file_become_members(csv_rows: str) -> None:
    with running_fake_service(csv_rows):
        download("keys.csv", "links.jsonl")
    rows = read_json("links.jsonl")
    assert [(row["charged"], row["mail"], row["note"]) for row in rows] == [
        (True, "a@x", '1, "2"'),
        (False, "b@x", ""),
        (False, "d@x", "x"),
    ]


def test_members_of_json_lines_are_copied_as_they_are(json_rows: str) -> None:
    with running_fake_service(json_rows):
        download("keys.jsonl", "links.jsonl")
    first, second, third = read_json("links.jsonl")
    assert (first["mail"], first["age"], second["tags"]) == ("ä@x", 7, ["x", None])
    assert "ä@x" in Path("links.jsonl").read_text()
    assert ("tags" in first, "mail" in second, third["mail"]) == (False, False, None)


def test_members_of_json_lines_become_columns(json_rows: str) -> None:
    with running_fake_service(json_rows):
        download("keys.jsonl", "links.csv")
    assert [(row["mail"], row["age"], row["tags"]) for row in read_csv("links.csv")] == [
        ("ä@x", "7", ""),
        ("", "", '["x", null]'),
        ("", "", ""),
    ]


def test_columns_survive_an_interruption(broker: str) -> None:
    keys = [f"k/{n}" for n in range(2 * DEFAULT_CHUNK_ITEMS)]
    Path("keys.csv").write_text("key,mail\n" + "".join(f"{key},{key}@x\n" for key in keys))
    words = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    with running_fake_service(broker, lambda m, _: "lose" if m["chunk"] else "answer"):
        assert run_cli(*words, "--timeout", "2s").exit_code == 3
    with running_fake_service(broker):
        assert run_cli(*words, "--resume").exit_code == 0
    rows = read_csv("links.csv")
    assert [(row["key"], row["mail"]) for row in rows] == [(key, f"{key}@x") for key in keys]


def test_the_summary_counts_refusals_by_code_and_names_the_file(csv_rows: str) -> None:
    with running_fake_service(csv_rows):
        words = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
        *_, summary, hint = run_cli(*words).stderr.splitlines()
    assert summary.startswith(
        "links.csv: 1 granted (charged), 2 refused "
        "(not charged: 1 expiry_invalid, 1 key_outside_prefix), in "
    )
    assert hint == (
        "to request the refused rows again: the same command with --resume, which needs "
        "links.csv.resume.json"
    )


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
        ("valetkey.cli.main", ("download", "reports", "a")),
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
