import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.servers import external
from worker.devstack.broker import running_valkey
from worker.devstack.folder import storage_keys
from worker.devstack.storage import Storage, seaweedfs

# Before any test is read: a developer's shell must not reach into it.
_GIVEN = "VALETKEY_TEST_"
for _name in tuple(os.environ):
    if _name.startswith(("AWS_", "CELERY_", "VALETKEY_")) and not _name.startswith(_GIVEN):
        del os.environ[_name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
# Nor may whoever started the tests in the background, where Ctrl-C is ignored: some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine may hold up any example for longer than the fifth of a second that is the default.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

_POSTGRES = os.environ.get(f"{_GIVEN}POSTGRES_URL")
_REDIS = os.environ.get(f"{_GIVEN}REDIS_URL")


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers keep their data and logs."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session", params=["valkey", *(["redis"] if _REDIS else [])])
def valkey_url(request: pytest.FixtureRequest, server_data: Path) -> Iterator[str]:
    """The URL of a broker; VALETKEY_TEST_REDIS_URL adds one to run everything against."""
    if request.param == "redis":
        yield str(_REDIS)
    else:
        with running_valkey(server_data) as server:
            yield server.url()


@pytest.fixture(scope="session")
def seaweed(server_data: Path) -> Iterator[Storage]:
    with seaweedfs(server_data, storage_keys(server_data)) as storage:
        yield storage


@pytest.fixture(scope="session")
def ministack(server_data: Path) -> Iterator[Storage]:
    with external.running_ministack(server_data) as storage:
        yield storage


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server's own database, in which databases are created."""
    with external.running_postgres() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    with external.fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", *(["given"] if _POSTGRES else [])])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty database of each kind; VALETKEY_TEST_POSTGRES_URL adds a server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'valetkey.db'}"
    elif request.param == "postgresql":
        yield request.getfixturevalue("postgres_database")
    else:
        with external.fresh_database(str(_POSTGRES)) as url:
            yield url
