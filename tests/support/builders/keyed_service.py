"""The real answerer, without a queue, as it knows a tenant by its keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import services
from tests.support.builders.messages import tenant_config
from tests.support.crypto.keys import tenant_key as public_half
from valetkey import Client
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key
from worker import clock
from worker.aws.clients import S3Clients
from worker.commands.database import migrate_to_head
from worker.core.tenants.config import Quota
from worker.db import tenants
from worker.db.engine import create_database_engine, write_transaction
from worker.usecases.dispatch import Response

KEY, OLD = generate_key("acme/2026-11"), generate_key("acme/2025-11")

Answering = Callable[[Any], Response]


@contextmanager
def running_keyed_service(folder: Path) -> Iterator[Answering]:
    """Answer messages of the tenant acme, that KEY or OLD signed, on a database in this folder."""
    url = f"sqlite:///{folder / 'valetkey.db'}"
    migrate_to_head(url)
    engine = create_database_engine(url)
    keys = {key.name: key for key in map(public_half, (KEY, OLD))}
    known = tenant_config(Quota("grants", "day", 10_000, warn_at=1), trust="keys", keys=keys)
    with write_transaction(engine) as connection:
        tenants.store_config(connection, tenants.load_config(connection), known)
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        environ.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        yield services.build_service(engine, S3Clients(), clock.now).answer
    engine.dispose()


def keyed_client(broker: str, key: PrivateKey = KEY) -> Client:
    """A client that has a key."""
    return Client(broker, key=dump_private_key(key), requested_by="test")


def wire_result(answering: Answering) -> Callable[[Any], Any]:
    """What goes back over the wire."""
    return lambda raw: answering(raw).wire
