"""The tenant config of a stack: when a file is applied, and what the config needs from storage."""

from collections.abc import Mapping
from pathlib import Path

from worker import clock
from worker.core.tenants.config import TenantConfig, is_usable_key
from worker.db.engine import create_database_engine, read_transaction
from worker.db.tenants import load_config
from worker.devstack.processes import StartFailed
from worker.devstack.service import CHECKOUT, Commands, run_command

EXAMPLE = CHECKOUT / "examples" / "tenants.toml"


def prepare_tenants(
    commands: Commands, tenants: Path | None, environ: Mapping[str, str]
) -> tuple[TenantConfig, str | None, list[str]]:
    """Migrate the database and apply a tenants file, or without one the example if it is empty.

    A config that is already stored stays: whoever applied it last decided so. Returns the config,
    the file that was applied (None if none was), and lines about what it changed. Raises
    StartFailed.
    """
    run_command(commands.migrate, environ)
    before = read_config(environ["VALETKEY_DATABASE_URL"])
    if tenants is None and before.tenants:
        return before, None, []
    path = tenants or EXAMPLE
    output = run_command((*commands.apply, str(path)), environ)
    config = read_config(environ["VALETKEY_DATABASE_URL"])
    if not config.tenants:
        raise StartFailed(f"{path} configures no tenant: add at least one [tenants.NAME] table.")
    # At the first start everything is new, and the file says it better than the difference.
    lines = [f"  {line}" for line in output.splitlines() if before.tenants or "WARNING" in line]
    return config, str(path), [f"Applied {path}:", *lines]


def read_config(database_url: str) -> TenantConfig:
    """Read the config that is in force from the database."""
    engine = create_database_engine(database_url)
    try:
        with read_transaction(engine) as connection:
            return load_config(connection)
    finally:
        engine.dispose()


def local_buckets(config: TenantConfig) -> set[str]:
    """Return the buckets that the stack's own storage must have."""
    return {bucket.bucket for bucket in config.buckets.values() if bucket.endpoint is None}


def accepted_keys(config: TenantConfig) -> dict[str, str]:
    """Return the public signing keys that the service accepts, by key id."""
    now = clock.now()
    return {
        f"{tenant.name}/{key.name}": key.sign
        for tenant in config.tenants.values()
        for key in tenant.keys.values()
        if is_usable_key(key, now)
    }
