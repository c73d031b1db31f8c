"""The service in this process, without a queue, for a tenant that signs its messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import services
from tests.support.builders.messages import tenant_config
from tests.support.crypto.tokens import tenant_keys
from tests.support.servers.databases import migrated_file, open_engine
from valetkey import Client
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.issue.dispatch import Response
from worker.rules.tenant_config import Quota

KEY, OLD = generate_key("acme/2026-11"), generate_key("acme/2025-11")

Respond = Callable[[Any], Response]


@contextmanager
def running_keyed_service(
    folder: Path, now: Callable[[], datetime] = clock.now
) -> Iterator[Respond]:
    """Yield a function that responds to messages of the tenant acme, signed with KEY or OLD.

    Its database is in the folder. now is its clock.
    """
    keys = tenant_keys(KEY, OLD)
    config = tenant_config(Quota("grants", "day", 10_000, warn_at=1), trust="keys", keys=keys)
    with (
        pytest.MonkeyPatch.context() as environ,
        open_engine(migrated_file(folder / "valetkey.db")) as engine,
    ):
        environ.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        environ.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        service = services.build_service(engine, S3Clients(), now)
        service.apply(config)
        yield service.respond


def keyed_client(broker: str, key: PrivateKey = KEY) -> Client:
    return Client(broker, key=dump_private_key(key), requested_by="test")


def wire_result(respond: Respond) -> Callable[[Any], Any]:
    """Return a function that responds with the sealed result, as it is sent."""
    return lambda raw: respond(raw).sent
