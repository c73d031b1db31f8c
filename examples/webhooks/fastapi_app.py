"""Receives webhooks with FastAPI.

pip install "fastapi[standard]"
export VALETKEY_HOOK_SECRET=whsec_…
fastapi run --port 3000 fastapi_app.py
"""

import os
import sqlite3
from contextlib import closing

from fastapi import FastAPI, HTTPException, Request

from valetkey import Grant
from valetkey.webhooks import Event, GrantsDecided, InvalidWebhook, UploadStored, unwrap

SECRETS = os.environ["VALETKEY_HOOK_SECRET"].split()  # two during a rotation
DATABASE = os.environ.get("HOOK_DATABASE", "hooks.db")
TABLES = """
    CREATE TABLE IF NOT EXISTS webhooks (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS links (key TEXT PRIMARY KEY, url TEXT);
    CREATE TABLE IF NOT EXISTS uploads (key TEXT PRIMARY KEY, size INTEGER);
"""

with closing(sqlite3.connect(DATABASE)) as connection:
    connection.executescript(TABLES)

app = FastAPI()


@app.post("/hook", status_code=204)
async def hook(request: Request) -> None:
    """Verify a webhook, and store what it says once. Do slow work elsewhere, from the rows."""
    try:
        event = unwrap(await request.body(), request.headers, SECRETS)
    except InvalidWebhook as error:
        raise HTTPException(400, str(error)) from None
    # One transaction: if it fails, the service sends the webhook again.
    with closing(sqlite3.connect(DATABASE)) as database, database:
        inserted = database.execute(
            "INSERT INTO webhooks VALUES (?) ON CONFLICT DO NOTHING", [event.id]
        )
        if inserted.rowcount:  # 0: a repeat
            store(event, database)


def store(event: Event, database: sqlite3.Connection) -> None:
    """Store what a webhook says. Other types, and those of a later service, need no rows."""
    match event:
        case GrantsDecided(data=data):
            links = [(item.key, item.url) for item in data.items if isinstance(item, Grant)]
            database.executemany("REPLACE INTO links VALUES (?, ?)", links)
        case UploadStored(data=data):
            uploads = [(upload.key, upload.size) for upload in data.uploads]
            database.executemany("REPLACE INTO uploads VALUES (?, ?)", uploads)
