"""Tells a `dev` that runs in another process about the tenants file that a command applied."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from worker.core.tenants.config import TenantConfig
from worker.devstack.folder import StorageKeys, write_private
from worker.devstack.running import RunningDev
from worker.devstack.s3 import create_buckets, s3_client
from worker.devstack.state import remember_tenants_file
from worker.devstack.tenants import accepted_keys, local_buckets


def adopt_config(running: RunningDev, config: TenantConfig, file: Path) -> None:
    """Create the buckets of a config that was applied, and tell producers its keys.

    Raises StartFailed.
    """
    info = running.info
    keys = StorageKeys(info.s3_access_key, info.s3_secret_key)
    create_buckets(s3_client(info.s3_endpoint, keys, info.s3_region), local_buckets(config))
    tenant = info.tenant if info.tenant in config.tenants else next(iter(config.tenants), "")
    info = replace(info, tenant=tenant, public_keys=accepted_keys(config))
    write_private(running.data / "dev.json", json.dumps(asdict(info), indent=2) + "\n")
    remember_tenants_file(running.data, file)
