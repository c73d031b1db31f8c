"""What `--from` asks for, and what it says of rows that are wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from valetkey.cli.main import main

ROWS = "key,filename,expires_in\na,,\nb,x.pdf,15m\nno/c,,\na,,\nd,,900\ne\n"


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    return valkey_url


def run(*words: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(main, words, input=stdin)


def read(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_row_has_its_answer_in_the_order_of_the_file(broker: str) -> None:
    Path("keys.csv").write_text(ROWS)
    with running_fake_service(broker):
        result = run("download", "reports", "--from", "keys.csv", "--out", "links.csv")
    rows = read("links.csv")
    assert [row["key"] for row in rows] == ["a", "b", "no/c", "a", "d", ""]
    assert [bool(row["url"]) for row in rows] == [True, True, False, False, True, False]
    assert [row["refused"] for row in rows if row["refused"]] == [
        "key_outside_prefix",
        "malformed",
        "malformed",
    ]
    assert (rows[3]["field"], rows[5]["field"]) == ("rows[5].key", "rows[7]")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "refused row 5: malformed: its key is that of row 2",
        "refused row 7: malformed: it has 1 cells, and row 1 has 3",
        "refused 'no/c': key_outside_prefix in key: outside",
    ]


def test_rows_of_one_life_are_one_batch(broker: str) -> None:
    Path("keys.csv").write_text(ROWS)
    with running_fake_service(broker) as service:
        run("download", "reports", "--from", "keys.csv", "--expires-in", "2h", "--json")
    messages = sorted((m for _, m in service.arrived), key=lambda m: str(m["items"][0]["key"]))
    assert [(m["grant"]["expires_in"], m["total"], m["chunk_size"]) for m in messages] == [
        (7200, 2, 300),
        (900, 2, 300),
    ]
    assert [item["key"] for item in messages[1]["items"]] == ["b", "d"]
    assert messages[1]["items"][0]["filename"] == "x.pdf"


def test_many_rows_are_several_batches(broker: str) -> None:
    keys = "".join(f"k{n}\n" for n in range(7))
    with running_fake_service(broker) as service:
        result = run("download", "reports", "--from", "-", "--batch-size", "3", stdin=keys)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == keys.split()
    assert [message["total"] for _, message in service.arrived] == [3, 3, 1]


def test_with_strict_nothing_is_asked_where_a_row_is_bad(broker: str) -> None:
    with running_fake_service(broker) as service:
        words = ("--from", "-", "--strict", "--out", "links.csv")
        result = run("download", "reports", *words, stdin=b"a\n\xff\nb\n")
    assert (result.exit_code, service.arrived, list(Path().iterdir())) == (2, [], [])
    assert "refused row 2: malformed: its key is not UTF-8" in result.stderr
    assert "nothing was asked: 1 of 3 rows are bad" in result.stderr


def test_of_ten_thousand_bad_rows_the_first_are_said_and_all_are_written(broker: str) -> None:
    with running_fake_service(broker):
        words = ("--from", "-", "--out", "links.jsonl")
        result = run("download", "reports", *words, stdin="\n" * 10_000 + "a\n")
    answers = [json.loads(line) for line in Path("links.jsonl").read_text().splitlines()]
    assert (result.exit_code, len(answers), answers[-1]["key"]) == (1, 10_001, "a")
    assert {answer["code"] for answer in answers[:-1]} == {"key_empty"}
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.endswith("and 9,990 more rows are bad\n")


def test_where_no_row_is_good_nothing_is_asked(broker: str) -> None:
    with running_fake_service(broker) as service:
        result = run("download", "reports", "--from", "-", "--json", stdin="\n\n")
    assert (result.exit_code, len(result.stdout.splitlines()), service.arrived) == (1, 2, [])


@pytest.mark.usefixtures("broker")
def test_where_no_row_is_good_there_is_nothing_to_explain() -> None:
    result = run("download", "reports", "--from", "-", "--dry-run", stdin="\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no row is good: there is nothing to explain" in result.stderr


def test_stdin_is_what_it_is_said_to_be(broker: str) -> None:
    rows = "key,owner\na,me\n"
    with running_fake_service(broker):
        words = ("--from", "-", "--format", "csv", "--ignore-columns", "owner")
        result = run("download", "reports", *words, stdin=rows)
    assert result.stdout == "a\thttp://127.0.0.1/reports/0\n"


@pytest.mark.usefixtures("broker")
def test_an_unknown_column_is_refused_before_anything_is_asked() -> None:
    Path("keys.csv").write_text("key,expires\na,1h\n")
    result = run("download", "reports", "--from", "keys.csv")
    assert result.exit_code == 2
    assert "row 1 names an unknown column `expires`; there may be key, filename" in result.stderr
    assert "--ignore-columns" in result.stderr


def test_a_quota_is_explained_once_for_all_batches(broker: str) -> None:
    keys = "".join(f"k{n}\n" for n in range(6))
    with running_fake_service(
        broker, decide=lambda message: refuse_outcome(message | {"total": 9})
    ):
        words = ("--from", "-", "--batch-size", "2", "--json")
        result = run("download", "reports", *words, stdin=keys)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 6)
    assert result.stderr.count("refused the request: quota_exceeded in total") == 1
    assert len(result.stderr.splitlines()) == 1


def test_a_dry_run_explains_the_batch_of_the_first_good_row(broker: str) -> None:
    said = {"status": "explained", "decision": "issue", "rules": []}
    with running_fake_service(broker, decide=lambda _: said) as service:
        words = ("--from", "-", "--format", "csv", "--dry-run")
        result = run("download", "reports", *words, stdin="key,expires_in\n,\na,15m\nb,\n")
    assert "It would be issued." in result.stdout
    ((_, message),) = service.arrived
    assert (message["ask"], message["total"], message["grant"]["expires_in"]) == ("explain", 1, 900)


@pytest.fixture
def stored() -> dict[str, Any]:
    checksum = {"algorithm": "crc32", "value": "AAAAAA=="}
    rows = "key,size,checksum\na,5KB,crc32:AAAAAA==\nb,7,\n"
    Path("keys.csv").write_text(rows)
    return {"items": [{"key": "a", "size": 5_000, "checksum": checksum}, {"key": "b", "size": 7}]}


def test_forms_are_asked_for_by_a_file_too(broker: str, stored: dict[str, Any]) -> None:
    with running_fake_service(broker) as service:
        words = ("--from", "keys.csv", "--max-size", "5MB", "--out", "forms.jsonl")
        result = run("upload", "inbox", *words)
    ((_, message),) = service.arrived
    assert (result.exit_code, message["items"]) == (0, stored["items"])
    assert message["grant"]["max_size"] == 5_000_000
    assert Path("forms.jsonl").read_text().count('"method":"POST"') == 2


def test_puts_are_asked_for_by_a_file_too(broker: str, stored: dict[str, Any]) -> None:
    with running_fake_service(broker) as service:
        result = run("put", "inbox", "--from", "keys.csv", "--overwrite", "--csv")
    ((_, message),) = service.arrived
    assert (result.exit_code, message["items"]) == (0, stored["items"])
    assert (message["grant"]["max_size"], message["grant"]["overwrite"]) == (5_000, True)
    assert len(result.stdout.splitlines()) == 3
