"""Commands to try on a service that `dev` has just started, ready to be pasted into a shell."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from valetkey.cli.programs import program_command
from worker.core.tenants.config import Policy, Tenant, TenantConfig

_MAX_SIZE = 500 * 1024


def first_commands(config: TenantConfig, data: Path) -> Iterator[str]:
    """Yield commands that the config allows, for a shell in the working folder."""
    valetkey, python = program_command("valetkey"), program_command("python")
    # Producers and operators look for `.valetkey` if no setting names another folder.
    found = data.resolve() == Path(".valetkey").resolve()
    folder = "" if found else f"VALETKEY_DATA_DIR={shlex.quote(str(data))} "
    for words in _requests(next(iter(config.tenants.values()))):
        yield f"{folder}{valetkey} {shlex.join(words)}"
    yield f"{folder}{python} -m worker audit list"


def _requests(tenant: Tenant) -> Iterator[list[str]]:
    for policy in tenant.policies.values():
        key = f"{'' if policy.prefixes[0] == '*' else policy.prefixes[0]}hello.txt"
        if "upload" in policy.kinds:
            yield ["upload", policy.bucket, key, *_upload_options(policy), "--curl"]
        if "download" in policy.kinds:
            yield ["download", policy.bucket, key]
        return


def _upload_options(policy: Policy) -> list[str]:
    size = "500KiB" if policy.max_size >= _MAX_SIZE else str(policy.max_size)
    types = policy.content_types
    chosen = [] if "application/octet-stream" in types else ["--content-type", types[0]]
    return ["--max-size", size, *chosen]
