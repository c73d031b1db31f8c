"""Mails each user of a CSV file a link to their own file: each once a night, whatever is killed.

    python examples/jobs/nightly_mail.py users.csv

The file has the columns id, email and key. nightly.db keeps the users of each night, the id of
their batch, and their mails. Start the program again if it is killed, the same night or a later
one: it first finishes what is left.
"""

import argparse
import csv
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from valetkey import Client, Code, Grant, Item, Refusal, new_id

CHUNK_SIZE = 600  # items in one message: a batch that is continued must keep it
LIFETIME = 86_400  # seconds
# A new batch may be granted what these refuse: no quota was left, or the batch, or a message that
# waited in the queue, was too old.
LATER = {Code.QUOTA_EXCEEDED, Code.BATCH_CLOSED, Code.MESSAGE_EXPIRED}

TABLE = """
CREATE TABLE IF NOT EXISTS mails (
    night TEXT NOT NULL, id TEXT NOT NULL, email TEXT NOT NULL, key TEXT NOT NULL,
    batch TEXT NOT NULL,
    mail TEXT,     -- the outbox: NULL until there is a link
    refusal TEXT,  -- its code, for a user who gets no link
    PRIMARY KEY (night, id)
)"""
OPEN = "mail IS NULL AND refusal IS NULL"


def plan_night(db: sqlite3.Connection, night: str, users: Path) -> None:
    """Save a night's users and its batch id, so that another process can repeat the request.

    The users of a night that has begun stay the same, although the file may change.
    """
    if db.execute("SELECT 1 FROM mails WHERE night = ?", (night,)).fetchone():
        return
    with users.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"id", "email", "key"} <= set(reader.fieldnames or ()):
            sys.exit(f"{users} needs the columns id, email and key")
        batch, rows = new_id(), dict[str, tuple[str, ...]]()
        for user in reader:
            where = f"{users}, line {reader.line_num}"
            try:  # before the night is saved: the file can still be corrected
                item = Item(key=user["key"], recipient=user["email"], ref=user["id"])
            except ValueError as error:
                sys.exit(f"{where}: {error}")
            if user["id"] in rows:
                sys.exit(f"{where}: the id {item.ref!r} is there twice")
            rows[user["id"]] = night, user["id"], user["email"], user["key"], batch
    with db:  # one transaction: all users of the night, or none
        insert = "INSERT INTO mails (night, id, email, key, batch) VALUES (?,?,?,?,?)"
        db.executemany(insert, rows.values())


def mail(db: sqlite3.Connection, night: str, user: str, email: str, link: str) -> None:
    """Put a mail into the outbox. The mail and the note that it was mailed are one write.

    Your code: a program that hands the outbox to your mail server, with night and user as the
    Message-ID. If you send mails from here instead, a kill between mail and note repeats one mail.
    """
    text = f"Message-ID: <{night}.{user}@example.com>\nTo: {email}\n\nYour statement: {link}\n"
    with db:
        db.execute("UPDATE mails SET mail = ? WHERE night = ? AND id = ?", (text, night, user))


def mail_batch(db: sqlite3.Connection, client: Client, night: str, batch_id: str) -> Refusal | None:
    """Mail the users of a batch who have no mail yet.

    Returns a refusal if some of them need a new batch.
    """
    query = f"SELECT id, email, key, {OPEN} FROM mails WHERE batch = ? ORDER BY rowid"  # noqa: S608
    users = db.execute(query, (batch_id,)).fetchall()
    # Chunks before this one are not requested again: links that expired would be issued again.
    first_chunk = [is_open for *_, is_open in users].index(1) // CHUNK_SIZE
    rest = users[first_chunk * CHUNK_SIZE :]
    batch = client.download_many(
        "demo",
        [Item(key=key, recipient=email, ref=user) for user, email, key, _ in rest],
        batch_id=batch_id,
        total=len(users),
        chunk_size=CHUNK_SIZE,
        first_chunk=first_chunk,
        expires_in=LIFETIME,
        reason=f"statements {night}",
        progress=lambda decided, total: print(f"{decided:,} of {total:,} decided", file=sys.stderr),
    )
    later = None
    for (user, email, _, is_open), answer in zip(rest, batch.results(), strict=True):
        if not is_open:
            continue
        if isinstance(answer, Grant):
            mail(db, night, user, email, answer.url)
        elif answer.code in LATER:
            later = answer
        else:
            with db:
                values = (answer.code, night, user)
                db.execute("UPDATE mails SET refusal = ? WHERE night = ? AND id = ?", values)
    return later


def run(db: sqlite3.Connection, night: str) -> int:
    """Mail the users of this night, and those who are left of earlier ones.

    Returns 2 if users of this night were refused, and 1 if the program must be started again.
    """
    query = f"SELECT night, batch FROM mails WHERE {OPEN} ORDER BY rowid LIMIT 1"  # noqa: S608
    with Client(requested_by="nightly-mail") as client:
        while found := db.execute(query).fetchone():
            later = mail_batch(db, client, *found)
            if later is not None:
                with db:
                    change = f"UPDATE mails SET batch = ? WHERE batch = ? AND {OPEN}"  # noqa: S608
                    db.execute(change, (new_id(), found[1]))
                problem = f"{later.code}: {later.message}"
                print(f"start again, for a new batch: {problem}", file=sys.stderr)
                return 1
    count = "SELECT count(mail), count(refusal) FROM mails WHERE night = ?"
    mailed, refused = db.execute(count, (night,)).fetchone()
    print(f"{night}: {mailed:,} mailed, {refused:,} refused")
    return 2 if refused else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Mails each user a link to their own file.")
    parser.add_argument("users", type=Path, help="a CSV file with the columns id, email and key")
    parser.add_argument("--night", default=f"{datetime.now(UTC):%Y-%m-%d}", help="today by default")
    parser.add_argument("--state", default="nightly.db", help="the file with users and mails")
    options = parser.parse_args(arguments)
    os.umask(0o077)  # the outbox has links
    with closing(sqlite3.connect(options.state)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(TABLE)
        plan_night(db, options.night, options.users)
        return run(db, options.night)


if __name__ == "__main__":
    sys.exit(main())
