"""Receives webhooks with Flask.

export VALETKEY_HOOK_SECRET=whsec_…
flask --app flask_app run --port 3000
"""

import os
import sqlite3
from contextlib import closing

from flask import Flask, abort, request

from valetkey.webhooks import Event, InvalidWebhook, UploadStored, UploadUnused, unwrap

SECRETS = os.environ["VALETKEY_HOOK_SECRET"].split()  # two during a rotation
DATABASE = os.environ.get("HOOK_DATABASE", "hooks.db")
TABLES = """
    CREATE TABLE IF NOT EXISTS webhooks (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS uploads (key TEXT PRIMARY KEY, size INTEGER);
"""

with closing(sqlite3.connect(DATABASE)) as connection:
    connection.executescript(TABLES)

app = Flask(__name__)


@app.post("/hook")
def hook() -> tuple[str, int]:
    """Verify a webhook, and store what it says once. Do slow work elsewhere, from the rows."""
    try:
        event = unwrap(request.get_data(), request.headers, SECRETS)
    except InvalidWebhook as error:
        abort(400, str(error))
    # One transaction: if it fails, the service sends the webhook again.
    with closing(sqlite3.connect(DATABASE)) as database, database:
        inserted = database.execute(
            "INSERT INTO webhooks VALUES (?) ON CONFLICT DO NOTHING", [event.id]
        )
        if inserted.rowcount:  # 0: a repeat
            store(event, database)
    return "", 204


def store(event: Event, database: sqlite3.Connection) -> None:
    """Store what a webhook says. Other types, and those of a later service, need no rows."""
    match event:
        case UploadStored(data=data) | UploadUnused(data=data):
            uploads = [(upload.key, upload.size) for upload in data.uploads]  # None: unused
            database.executemany("REPLACE INTO uploads VALUES (?, ?)", uploads)
