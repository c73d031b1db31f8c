"""A `dev` that runs in another process: finding it, and telling it what a command changed."""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from valetkey.config import find_dev_file
from worker.core.tenants.config import TenantConfig
from worker.devstack.folder import FolderUnusable, StorageKeys, has_running_stack, write_private
from worker.devstack.s3 import create_buckets, s3_client
from worker.devstack.service import service_environment
from worker.devstack.stack import StackInfo
from worker.devstack.state import remember_tenants_file
from worker.devstack.tenants import accepted_keys, local_buckets

_EXPLICIT_SETTINGS = tuple(
    f"VALETKEY_{name}" for name in ("DATABASE_URL", "BROKER_URL", "RESULT_URL", "S3_ENDPOINT")
)


@dataclass(frozen=True, slots=True)
class RunningDev:
    """A `dev` that runs now, by its data folder and the content of its dev.json."""

    data: Path
    info: StackInfo = field(repr=False)

    @contextmanager
    def configuring(self, environ: MutableMapping[str, str]) -> Iterator[None]:
        """Let commands find this service in the environment while the block runs."""
        before = dict(environ)
        environ.clear()
        environ.update(
            service_environment(
                before,
                VALETKEY_BROKER_URL=self.info.broker_url,
                VALETKEY_RESULT_URL=self.info.result_url,
                VALETKEY_DATABASE_URL=self.info.database_url,
                VALETKEY_S3_ENDPOINT=self.info.s3_endpoint,
                VALETKEY_DEVELOPMENT="1",
                AWS_ACCESS_KEY_ID=self.info.s3_access_key,
                AWS_SECRET_ACCESS_KEY=self.info.s3_secret_key,
                AWS_DEFAULT_REGION=self.info.s3_region,
            )
        )
        try:
            yield
        finally:
            environ.clear()
            environ.update(before)

    def adopt_config(self, config: TenantConfig, file: Path) -> None:
        """Create the buckets of a config that was applied, and tell producers its keys."""
        info = self.info
        keys = StorageKeys(info.s3_access_key, info.s3_secret_key)
        create_buckets(s3_client(info.s3_endpoint, keys, info.s3_region), local_buckets(config))
        tenant = info.tenant if info.tenant in config.tenants else next(iter(config.tenants), "")
        info = replace(info, tenant=tenant, public_keys=accepted_keys(config))
        write_private(self.data / "dev.json", json.dumps(asdict(info), indent=2) + "\n")
        remember_tenants_file(self.data, file)


def find_running_dev(environ: Mapping[str, str], folder: Path) -> RunningDev | None:
    """Return the `dev` that runs in VALETKEY_DATA_DIR, or at or above a folder.

    Returns None if there is none, or if a setting names a service: production is never shadowed.
    Raises FolderUnusable if VALETKEY_DATA_DIR names a folder in which none runs.
    """
    if any(environ.get(name) for name in _EXPLICIT_SETTINGS):
        return None
    path = find_dev_file(environ, folder)
    running = read_running_dev(path.parent) if path else None
    if running is None and environ.get("VALETKEY_DATA_DIR"):
        raise FolderUnusable(
            f"No `python -m worker dev` runs in {environ['VALETKEY_DATA_DIR']}, the "
            "VALETKEY_DATA_DIR: start it, or unset the variable."
        )
    return running


def read_running_dev(data: Path) -> RunningDev | None:
    """Return the `dev` that runs in a data folder, None if none is ready there."""
    try:
        content = json.loads((data / "dev.json").read_text(encoding="utf-8"))
        info = StackInfo(**content)
    except (OSError, ValueError, TypeError):  # also that of an earlier release
        return None
    return RunningDev(data.resolve(), info) if has_running_stack(data) else None
