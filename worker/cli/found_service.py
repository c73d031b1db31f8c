"""The service that a command uses if no setting names one."""

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import WorkerError

if TYPE_CHECKING:  # pydantic takes longer to import than some commands need
    from worker.rules.tenant_config import TenantConfig


EXPLICIT_SETTINGS = (
    *("VALETKEY_DATABASE_URL", "VALETKEY_BROKER_URL"),
    *("VALETKEY_RESULT_URL", "VALETKEY_S3_ENDPOINT"),
)
"""Settings that name a service. If one is set, no running one is looked for."""


def names_service(environ: Mapping[str, str]) -> bool:
    """Return whether a setting names a service."""
    return any(environ.get(name) for name in EXPLICIT_SETTINGS)


class ServiceNotFound(WorkerError):
    """A setting names a place at which no service runs."""


class FoundService:
    """A service that runs now. data is its folder."""

    data: Path

    def configuring(self, environ: MutableMapping[str, str]) -> AbstractContextManager[None]:
        """Let commands find the service in the environment while the block runs."""
        raise NotImplementedError

    def adopt(self, config: "TenantConfig", file: Path | None) -> str | None:
        """Prepare for a config that was applied, from a file if any; return a problem, or None."""
        raise NotImplementedError
