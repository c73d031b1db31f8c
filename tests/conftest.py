import atexit
import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.s3 import chromium
from tests.support.s3.chromium import Tab
from tests.support.scope import (  # noqa: F401 - hooks of pytest
    pytest_collection_modifyitems,
    pytest_terminal_summary,
    skip_without,
)
from tests.support.servers.databases import (
    NewDatabase,
    fresh_database,
    migrated_databases,
    migrated_file,
)
from worker.base import database_engine

if TYPE_CHECKING:
    from worker.dev.embedded_servers import Storage

# Before tests are imported, remove settings of the developer's shell, except those for the tests.
_TEST_PREFIX = "VALETKEY_TEST_"
for _name in tuple(os.environ):
    if _name.startswith(("AWS_", "CELERY_", "OTEL_", "VALETKEY_")) and not _name.startswith(
        _TEST_PREFIX
    ):
        del os.environ[_name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
# Clients look for a key in the account's configuration folder: not in that of the developer.
_CONFIG_HOME = tempfile.TemporaryDirectory(prefix="valetkey-tests-")
atexit.register(_CONFIG_HOME.cleanup)
os.environ["XDG_CONFIG_HOME"] = _CONFIG_HOME.name
# Some tests send SIGINT, which processes started in the background ignore by default.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests of this process lose no power; the processes that tests start flush each commit.
database_engine._PRAGMAS = (*database_engine._PRAGMAS, "synchronous=OFF")

# No deadline: on a busy machine an example may exceed the default of 0.2 seconds.
settings.register_profile("valetkey", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("valetkey")

_POSTGRES = os.environ.get(f"{_TEST_PREFIX}POSTGRES_URL")
_REDIS = os.environ.get(f"{_TEST_PREFIX}REDIS_URL")


# `make without FEATURE=dev` runs tests without the servers of that feature.
def _embedded_servers() -> Any:
    return pytest.importorskip("worker.dev.embedded_servers")


def _external_servers() -> Any:
    _embedded_servers()
    return pytest.importorskip("tests.support.servers.external")


def pytest_collection_finish() -> None:
    """Exempt the collected tests from garbage collection, which makes each collection cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_reported_here() -> Iterator[None]:
    """Report what a module did not close at its last test, not at some test of a later module."""
    yield
    gc.collect()  # __del__ warns of what is open, and pytest makes that an error
    gc.freeze()  # the next collection need not look at what is alive now


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the data and logs of the session's servers."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session", params=["valkey", *(["redis"] if _REDIS else [])])
def valkey_url(request: pytest.FixtureRequest, server_data: Path) -> Iterator[str]:
    """The URL of a broker. VALETKEY_TEST_REDIS_URL adds a second one, with which tests run too."""
    if request.param == "redis":
        yield str(_REDIS)
    else:
        with _embedded_servers().running_valkey(server_data) as server:
            yield server.url()


@pytest.fixture(scope="session")
def seaweed(server_data: Path) -> "Iterator[Storage]":
    keys = pytest.importorskip("worker.dev.data_folder").storage_keys(server_data)
    with _embedded_servers().running_seaweedfs(server_data, keys) as storage:
        yield storage


@pytest.fixture(scope="session")
def ministack(server_data: Path) -> "Iterator[Storage]":
    with _external_servers().running_ministack(server_data) as storage:
        yield storage


@pytest.fixture(scope="session")
def moto(server_data: Path) -> "Iterator[Storage]":
    with _external_servers().running_moto(server_data) as storage:
        yield storage


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server's default database, for creating other databases."""
    with _external_servers().running_postgres() as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(
    postgres_url: str,  # noqa: ARG001 - stops after the templates are dropped
) -> Iterator[Callable[[str], NewDatabase]]:
    """A function that takes a server and returns a function for new databases on it."""
    with migrated_databases() as databases:
        yield databases


@pytest.fixture(scope="session")
def new_postgres(
    postgres_databases: Callable[[str], NewDatabase], postgres_url: str
) -> NewDatabase:
    """Creates PostgreSQL databases with all tables."""
    return postgres_databases(postgres_url)


@pytest.fixture
def migrated_postgres(new_postgres: NewDatabase) -> Iterator[str]:
    """The URL of a new PostgreSQL database with all tables."""
    with new_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", *(["external"] if _POSTGRES else [])])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database of each kind with all tables, without rows.

    VALETKEY_TEST_POSTGRES_URL adds a server.
    """
    if request.param == "sqlite":
        yield migrated_file(tmp_path / "valetkey.db")
    elif request.param == "postgresql":
        yield request.getfixturevalue("migrated_postgres")
    else:
        with request.getfixturevalue("postgres_databases")(str(_POSTGRES))() as url:
            yield url


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A page in a real browser."""
    folder = tmp_path_factory.mktemp("chromium")
    browser = chromium.find_chromium(folder)
    if browser is None:
        skip_without("pages in a browser", "make browser")
    with chromium.open_tab(browser, folder) as tab:
        yield tab
