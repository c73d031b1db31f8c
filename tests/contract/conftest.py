from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.s3.stores import (
    BUCKET,
    OTHER_BUCKET,
    SERVERS,
    VERSIONED_BUCKET,
    Store,
    tenant_config,
)
from tests.support.servers.databases import migrated_file, open_engine
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage


@pytest.fixture(scope="session")
def storages(seaweed: Storage, ministack: Storage) -> dict[str, Storage]:
    """The servers, with three buckets each, one of them versioned."""
    storages = dict(zip(SERVERS, (seaweed, ministack), strict=True))
    for storage in storages.values():
        client = storage.client()
        for bucket in (BUCKET, OTHER_BUCKET, VERSIONED_BUCKET):
            # Allow ACLs, so that only the policy of a form can prevent them.
            client.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
            with suppress(ClientError):  # SeaweedFS has no public access block
                client.delete_public_access_block(Bucket=bucket)
        client.put_bucket_versioning(
            Bucket=VERSIONED_BUCKET, VersioningConfiguration={"Status": "Enabled"}
        )
    return storages


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="session")
def contract_engine(storages: dict[str, Storage], folder: Path) -> Iterator[Engine]:
    """A database that contains the tenant config of the servers' buckets."""
    with open_engine(migrated_file(folder / "valetkey.db")) as engine:
        services.build_service(engine, S3Clients(), clock.now).apply(tenant_config(storages))
        yield engine


@pytest.fixture(scope="session")
def stores(storages: dict[str, Storage], contract_engine: Engine) -> dict[str, Store]:
    """The stores by server name. One service signs for all, with each server's own keys."""
    s3 = S3Clients(sts_endpoint=storages["ministack"].endpoint)
    issuer = services.build_service(contract_engine, s3, clock.now)
    return {
        name: Store(name, storage, storage.client(), issuer) for name, storage in storages.items()
    }


@pytest.fixture(autouse=True)
def _profiles(storages: dict[str, Storage], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS profiles for the keys of each server."""
    path = folder / "credentials"
    path.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {storage.access_key}\n"
            f"aws_secret_access_key = {storage.secret_key}\n"
            for name, storage in storages.items()
        )
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))


@pytest.fixture(params=SERVERS)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Iterator[Store]:
    """Each server in turn: both accept valid use, and at least one refuses each misuse."""
    store = stores[request.param]
    yield store
    store.delete_objects()


@pytest.fixture
def signing_store(stores: dict[str, Store]) -> Store:
    """A store for tests of what the service signs or refuses, without requests to a server."""
    return stores[SERVERS[0]]
