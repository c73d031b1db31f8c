"""examples/jobs/nightly_mail.py with a fake client: nights that are continued, and bad files."""

import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from valetkey.testing import FakeClient

ROOT = Path(__file__).parents[3]
COUNT = 5


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valetkey_client: FakeClient) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "jobs"))
    monkeypatch.chdir(tmp_path)
    nightly_mail = import_module("nightly_mail")
    monkeypatch.delitem(sys.modules, "nightly_mail")
    monkeypatch.setattr(nightly_mail, "CHUNK_SIZE", 2)
    monkeypatch.setattr(
        nightly_mail, "Client", lambda **options: FakeClient(peer=valetkey_client, **options)
    )
    return nightly_mail


def write_users(*rows: str) -> None:
    Path("users.csv").write_text("id,email,key\n" + "".join(f"{row}\n" for row in rows))


def saved(query: str) -> Any:
    with closing(sqlite3.connect("nightly.db")) as db:
        return db.execute(query).fetchone()[0]


def test_a_night_that_was_killed_asks_only_for_the_chunks_that_are_left(
    job: Any, monkeypatch: pytest.MonkeyPatch, valetkey_client: FakeClient
) -> None:
    write_users(*(f"{n},{n}@example.com,k/{n}" for n in range(COUNT)))
    mail = job.mail

    def mail_until_killed(*arguments: Any) -> None:
        mail(*arguments)
        if "3" in arguments:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "mail", mail_until_killed)
        with pytest.raises(KeyboardInterrupt):
            job.main(["users.csv"])
    assert saved("SELECT count(mail) FROM mails") == COUNT - 1
    assert job.main(["users.csv"]) == 0
    assert saved("SELECT count(mail) FROM mails") == COUNT
    first, second = valetkey_client.requests
    assert first.batch_id == second.batch_id
    assert (first.keys, second.keys) == ([f"k/{n}" for n in range(COUNT)], ["k/4"])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("2,,k/2", "users.csv, line 3: .*recipient"),
        ('2,"b@example.com\nBcc: all@example.com",k/2', "users.csv, line 4: .*recipient"),
        ("2,b@example.com", "users.csv, line 3: .*key"),
        ("1,b@example.com,k/2", "users.csv, line 3: the id '1' is there twice"),
    ],
)
def test_a_bad_row_is_named_and_stops_no_other_night(job: Any, row: str, error: str) -> None:
    write_users("1,a@example.com,k/1", row)
    with pytest.raises(SystemExit, match=f"(?s){error}"):
        job.main(["users.csv"])
    assert saved("SELECT count(*) FROM mails") == 0
    write_users("1,a@example.com,k/1")
    assert job.main(["users.csv"]) == 0
