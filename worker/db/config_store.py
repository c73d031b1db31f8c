"""The tenant config of one process."""

from threading import Lock

from sqlalchemy import Connection, Engine, select

from models import ConfigRevisionCounter
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_in_driver, read_transaction
from worker.db.statements.driver import execute_in_driver
from worker.db.tenants import load_config

# As text, because it is read for every message.
_REVISION = str(select(ConfigRevisionCounter.revision))


class ConfigStore:
    """The tenant config of one process, reloaded when its revision changes.

    Create it after forking; threads may share it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._loaded: tuple[int, TenantConfig] = (-1, TenantConfig())

    def current(self) -> TenantConfig:
        """Return the config in effect now. Raises Transient."""
        revision = _revision(read_in_driver(self._engine, _REVISION))
        # Threads that need a new config wait while one of them loads it. What a thread returns is
        # never older than the revision that it read, whatever other threads store meanwhile.
        loaded = self._loaded
        if loaded[0] != revision:
            with self._lock:
                if self._loaded[0] != revision:
                    self._loaded = self._load()
                loaded = self._loaded
        return loaded[1]

    def _load(self) -> tuple[int, TenantConfig]:
        with read_transaction(self._engine) as connection:
            # On PostgreSQL each query sees what is committed when it starts. If a config was
            # applied in between, the revision has changed and everything is read again.
            while True:
                revision = read_revision(connection)
                loaded = load_config(connection)
                if read_revision(connection) == revision:
                    return revision, loaded


def read_revision(connection: Connection) -> int:
    """Return the config's revision, which each applied config and quota override increments."""
    return _revision(execute_in_driver(connection, _REVISION).fetchone())


def _revision(row: tuple[int] | None) -> int:
    return 0 if row is None else row[0]
