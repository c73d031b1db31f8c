from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders import services
from tests.support.builders.keyed_service import KEY, wire_result
from tests.support.builders.messages import POLICY, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import tenant_key
from tests.support.fakes.fake_service import FakeService, running_fake_service
from tests.support.servers.databases import migrated_file
from valetkey import Client
from valetkey.crypto.keys import dump_private_key
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, write_transaction
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import Bucket, Quota, TenantConfig

BUCKET = "stored"


@pytest.fixture(scope="module")
def owner(seaweed: Storage) -> Iterator[Any]:
    """A boto3 client of the bucket's owner."""
    client = seaweed.client()
    create_buckets(client, {BUCKET})
    yield client
    client.close()


@pytest.fixture(scope="module")
def real_service(
    seaweed: Storage,
    owner: Any,  # noqa: ARG001 - creates the bucket
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InProcessService]:
    """The service with real storage, for the tenant acme, which has a key, and its time."""
    url = migrated_file(tmp_path_factory.mktemp("stored") / "valetkey.db")
    engine = create_database_engine(url)
    with write_transaction(engine) as connection:
        services.replace_config(connection, config(), clock.now())
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        environ.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield services.build_service(engine, S3Clients(seaweed.endpoint), clock.now)
    engine.dispose()


def config() -> TenantConfig:
    """Return a config with one bucket profile, and the tenant acme with a key."""
    key = tenant_key(KEY)
    policies = {"demo": replace(POLICY, overwrite=True)}
    quota = Quota("grants", "day", 1_000)
    acme = tenant_config(quota, trust="keys", keys={key.name: key}, policies=policies)
    return TenantConfig({"demo": Bucket("demo", BUCKET, "us-east-1", "path")}, acme.tenants)


@pytest.fixture
def worker(broker: str, real_service: InProcessService) -> Iterator[FakeService]:
    """A worker of the real service, which tests can watch."""
    with running_fake_service(broker, decide=wire_result(real_service.respond)) as worker:
        yield worker


@pytest.fixture
def keyed(broker: str, worker: FakeService) -> Iterator[Client]:  # noqa: ARG001 - it answers
    """A client with the tenant's key, of the running service."""
    client = Client(broker, key=dump_private_key(KEY), requested_by="test")
    yield client
    client.close()
