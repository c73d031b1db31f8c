"""The real answerer, without a queue, as it knows a tenant by its keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import issuing
from tests.keys import declared as public_half
from tests.requests import declared
from valetkey import Client
from valetkey.identity import PrivateKey, generate, written
from worker.adapters import clock, declarations
from worker.adapters.database import connect, writing
from worker.adapters.s3 import S3
from worker.answer import Answer
from worker.commands.migrate import migrate_to_head
from worker.core.tenancy import Quota

KEY, OLD = generate("acme/2026-11"), generate("acme/2025-11")

Answering = Callable[[Any], Answer]


@contextmanager
def keyed(folder: Path) -> Iterator[Answering]:
    """Answer messages of the tenant acme, that KEY or OLD signed, on a database in this folder."""
    url = f"sqlite:///{folder / 'valetkey.db'}"
    migrate_to_head(url)
    engine = connect(url)
    keys = {key.name: key for key in map(public_half, (KEY, OLD))}
    known = declared(Quota("grants", "day", 10_000, warn_at=1), trust="keys", keys=keys)
    with writing(engine) as connection:
        declarations.store(connection, declarations.load(connection), known)
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        environ.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        yield issuing.issuer(engine, S3(), clock.now).answer
    engine.dispose()


def asking(broker: str, key: PrivateKey = KEY) -> Client:
    """A client that has a key."""
    return Client(broker, key=written(key), requested_by="test")


def wire(answering: Answering) -> Callable[[Any], Any]:
    """What goes back over the wire."""
    return lambda raw: answering(raw).wire
