"""Commands that read the log show and select the texts of single items, and what was erased."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.cli.audit_log import grants, items, write_batches
from tests.support.cli.operator import Run, audit_pages, json_lines, json_rows, refusal, run_audit
from valetkey.cli import terminal_text
from worker.audit import list_command
from worker.audit.audit_rows import read_grants
from worker.audit.grant_filters import GrantFilter
from worker.base.database_engine import read_transaction, write_transaction
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.scripting import audit_log

ERASED = "(erased)"
ANN = {"recipient": "Ann@Example.com", "reason": "case [7]", "ref": "mail-17"}
LOG = (
    AuditedBatch(
        1,
        [f"acme/{number}" for number in range(5)],
        {3: "key_traversal"},
        recipient="all@example.com",
        reason="statements",
        texts={
            1: ANN,
            2: {"recipient": ERASED, "ref": "mail-18"},
            3: {"recipient": "bob"},
            4: {"reason": "other"},
        },
    ),
    AuditedBatch(2, ["acme/1"], recipient="ann@example.com", requested_by=ERASED, reason=ERASED),
    AuditedBatch(3, ["acme/1", "acme/9"]),
)
SHOWN = {
    items(1, 0)[0]: ("all@example.com", "statements", None),
    items(1, 1)[0]: tuple(ANN.values()),
    items(1, 2)[0]: (ERASED, "statements", "mail-18"),
    items(1, 3)[0]: ("bob", "statements", None),
    items(1, 4)[0]: ("all@example.com", "other", None),
    items(2, 0)[0]: ("ann@example.com", ERASED, None),
    items(3, 0)[0]: (None, None, None),
    items(3, 1)[0]: (None, None, None),
}
OF_ANN = items(2, 0) + items(1, 1)


@pytest.fixture
def run(database: str) -> Run:
    write_batches(database, *LOG)
    return run_audit


def texts(row: dict[str, Any]) -> tuple[str | None, ...]:
    return tuple(row[name] or None for name in ("recipient", "reason", "ref"))


def shown(rows: list[dict[str, Any]]) -> dict[str, tuple[str | None, ...]]:
    return {row["grant"]: texts(row) for row in rows}


@pytest.mark.parametrize(
    "words",
    ["list --json", "list --json --all", "list --csv", "export --format jsonl", "export"],
)
def test_each_item_has_its_own_texts_or_those_of_its_batch(run: Run, words: str) -> None:
    result = run(*words.split())
    is_json = "json" in words
    rows = json_rows(result) if is_json else list(csv.DictReader(io.StringIO(result.stdout)))
    assert shown(rows) == SHOWN


def test_a_parquet_file_has_the_texts_of_each_item(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    assert run("export", "--format", "parquet", "--out", str(path)).exit_code == 0
    assert shown(pq.read_table(path).to_pylist()) == SHOWN


def test_an_event_has_the_texts_that_there_are(run: Run) -> None:
    events = json_rows(run("export", "--format", "ocsf", "--batch", batch_id(1)))
    assert events[2]["unmapped"].items() >= {"recipient": ERASED, "ref": "mail-18"}.items()
    assert "ref" not in events[0]["unmapped"]


def test_an_erased_requester_is_shown_as_erased(run: Run) -> None:
    (row,) = json_rows(run("list", "--requester", ERASED, "--json"))
    assert (row["grant"], row["requested_by"]) == (items(2, 0)[0], ERASED)
    (event,) = json_rows(run("export", "--batch", batch_id(2), "--format", "ocsf"))
    assert event["actor"]["user"]["name"] == ERASED


@pytest.mark.parametrize("grant", SHOWN)
def test_the_story_of_a_grant_and_whose_tell_its_texts(run: Run, grant: str) -> None:
    assert texts(json.loads(run("show", grant, "--json").stdout)) == SHOWN[grant]
    assert texts(json_lines(run("whose", grant, "--json"))[0]) == SHOWN[grant]
    if SHOWN[grant][2]:
        assert f"ref          {SHOWN[grant][2]}\n" in run("show", grant).stdout


def test_the_story_of_a_batch_tells_those_of_the_batch(run: Run) -> None:
    story = json.loads(run("show", batch_id(1), "--json").stdout)
    assert texts(story) == ("all@example.com", "statements", None)
    assert json.loads(run("show", batch_id(2), "--json").stdout)["requested_by"] == ERASED


def test_the_python_api_has_the_texts_of_each_item(run: Run, database: str) -> None:
    assert run("list").exit_code == 0
    with audit_log.AuditLog(database) as log:
        assert {row.grant: (row.recipient, row.reason, row.ref) for row in log.grants()} == SHOWN
        found = [row.grant for row in log.grants(recipient="ANN@*")]
        assert found == OF_ANN[::-1]
        assert [row.grant for row in log.grants(reason="CASE [7]", ref="mail-?7")] == items(1, 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--recipient ann@example.com", OF_ANN),
        ("--recipient *@EXAMPLE.com", items(2, 0) + items(1, 4, 1, 0)),
        ("--recipient ann*com --key acme/1", OF_ANN),
        ("--recipient bob --decision refused", items(1, 3)),
        ("--recipient all@example.com", items(1, 4, 0)),
        ("--recipient (erased)", items(1, 2)),
        ("--recipient nobody", []),
        ("--reason case?[7]", []),  # a set, as in a pattern of keys
        ("--reason case?*7?", items(1, 1)),
        ("--reason statements --batch " + batch_id(1), items(1, 3, 2, 0)),
        ("--reason other", items(1, 4)),
        ("--ref MAIL-17", items(1, 1)),
        ("--ref mail-1?", items(1, 2, 1)),
        ("--requester BILL*", items(3, 1, 0) + items(1, 4, 3, 2, 1, 0)),
    ],
)
def test_filters_select_items_by_the_texts_that_are_shown(
    run: Run, words: str, expected: list[str]
) -> None:
    assert grants(run("list", *words.split(), "--json")) == expected
    assert grants(run("list", *words.split(), "--json", "--all")) == expected
    exported = run("export", *words.split(), "--format", "jsonl")
    assert grants(exported) == sorted(expected)
    counts = json_rows(run("count", *words.split(), "--by", "kind", "--json"))
    assert sum(row["total"] for row in counts) == len(expected)


def test_a_text_with_brackets_is_found_by_itself(run: Run) -> None:
    assert grants(run("list", "--reason", "case [7]", "--json")) == items(1, 1)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            "recipient",
            {
                None: (2, 0),
                ERASED: (1, 0),
                "Ann@Example.com": (1, 0),
                "ann@example.com": (1, 0),
                "all@example.com": (2, 0),
                "bob": (0, 1),
            },
        ),
        (
            "reason",
            {
                None: (2, 0),
                ERASED: (1, 0),
                "case [7]": (1, 0),
                "other": (1, 0),
                "statements": (2, 1),
            },
        ),
        ("ref", {None: (5, 1), "mail-17": (1, 0), "mail-18": (1, 0)}),
        ("requester", {ERASED: (1, 0), "billing": (6, 1)}),
    ],
)
def test_counts_are_of_the_texts_that_are_shown(
    run: Run, column: str, expected: dict[str | None, tuple[int, int]]
) -> None:
    for words in (("count", "--by", column), ("top", f"{column}s")):
        rows = json_rows(run(*words, "--json"))
        assert {row[column]: (row["issued"], row["refused"]) for row in rows} == expected


@pytest.mark.parametrize("option", ["--recipient", "--requester", "--reason", "--ref"])
@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", "\x7f"])
@pytest.mark.parametrize("command", ["list", "count", "export"])
def test_a_text_that_no_item_can_have_is_refused(
    run: Run, command: str, option: str, text: str
) -> None:
    assert "write 1 to 200 characters" in refusal(run(command, option, text))


@pytest.mark.usefixtures("run")
def test_the_pages_of_a_pattern_are_the_whole_list_once() -> None:
    pages = audit_pages("list", "--recipient", "*@EXAMPLE.com", "--limit", "1", "--json")
    assert [row["grant"] for rows in pages for row in rows] == items(2, 0) + items(1, 4, 1, 0)


def test_new_rows_are_followed_by_their_own_texts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_command, "POLL_SECONDS", 0.01)
    blocks = list_command.follow_grants(engine, GrantFilter(recipient="ANN*"), limit=10)
    assert next(blocks) == []
    with write_transaction(engine) as connection:
        LOG[0].write(connection)
        append_leaf(connection, "acme", NewLeaf("batch", bytes(32), 1, 0))
    (row,) = next(blocks)
    assert (row.recipient, row.reason, row.ref) == tuple(ANN.values())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets lists be printed to a terminal of a width."""

    def set_width(width: int) -> None:
        for module in (list_command, terminal_text):
            monkeypatch.setattr(module, "terminal_columns", lambda: width)

    return set_width


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("words", ["", "--recipient ann*"])
def test_a_table_in_a_terminal_has_who_got_what_from_whom_and_by_which_grant(
    run: Run, terminal: Callable[[int], None], width: int, words: str
) -> None:
    terminal(width)
    lines = run("list", *words.split()).stdout.splitlines()
    assert {"recipient", "requested_by", "grant"} <= set("\n".join(lines).split())
    shown = [line for line in lines if "Ann@Example.com" in line]
    assert any(items(1, 1)[0] in line for line in lines)
    assert len(shown) == 1
    assert all(len(line) <= width for line in lines)


def test_a_narrow_table_begins_with_names_and_ids_and_cuts_keys_in_the_middle(
    engine: Engine, terminal: Callable[[int], None]
) -> None:
    key = f"acme/{'folder/' * 20}end.pdf"
    with write_transaction(engine) as connection:
        AuditedBatch(1, [key], recipient="ann", requested_by="billing").write(connection)
    terminal(80)
    first, second, row, rest = run_audit("list").stdout.splitlines()
    assert first.split() == ["recipient", "requested_by", "grant"]
    assert second.split() == ["time", "tenant", "decision", "key"]
    assert row.split() == ["ann", "billing", items(1, 0)[0]]
    shortened = rest.split()[-1]
    assert (shortened[:5], shortened[-7:], len(rest)) == ("acme/", "end.pdf", 80)


LINKS = 10_000


def test_ten_thousand_links_of_one_batch_tell_who_got_each_and_what_each_got(
    engine: Engine,
) -> None:
    own = {number: {"recipient": f"user-{number}@example.com"} for number in range(LINKS)}
    keys = [f"mail/{number}.pdf" for number in range(LINKS)]
    with write_transaction(engine) as connection:
        AuditedBatch(1, keys, chunk_size=500, texts=own).write(connection)
    with read_transaction(engine) as connection:
        got = read_grants(connection, GrantFilter(recipient="USER-4711@example.com"), 50).records
        who = read_grants(connection, GrantFilter(object_key="mail/4711.pdf"), 50).records
        ends = read_grants(connection, GrantFilter(recipient="user-99?9@*"), 50).records
    assert [(row.key, row.recipient) for row in got] == [("mail/4711.pdf", "user-4711@example.com")]
    assert got == who
    assert [row.key for row in ends] == [f"mail/99{number}9.pdf" for number in range(9, -1, -1)]
