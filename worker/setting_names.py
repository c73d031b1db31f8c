"""The names of the service's environment variables, and those that are probably misspelt."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

PREFIX = "VALETKEY_"
SETTING_NAMES = (
    *("BROKER_URL", "RESULT_URL", "DATABASE_URL", "S3_ENDPOINT", "S3_INTERNAL_ENDPOINT"),
    *("STS_ENDPOINT", "IAM_ENDPOINT", "DEVELOPMENT", "SWEEP_SECONDS", "CONCURRENCY"),
    *("AUDIT_KEY_FILE", "AUDIT_ORIGIN", "AUDIT_CHECKPOINTS", "AUDIT_WEBHOOK_SECRET"),
    "AUDIT_CHECKPOINT_SECONDS",
)
"""The service's settings, as in worker.settings, which takes longer to import."""
EXPLICIT_SETTINGS = tuple(
    PREFIX + name for name in ("DATABASE_URL", "BROKER_URL", "RESULT_URL", "S3_ENDPOINT")
)
"""Settings that name a service. If one is set, no `dev` is looked for."""

# Variables of the client, of `dev`, of a worker's supervisor and of docker-compose.yml.
_OTHER_NAMES = (
    *("BROKER_URL", "RESULT_URL", "TENANT", "REQUESTED_BY", "KEY", "KEY_FILE", "DATA_DIR"),
    *("READY_FD", "SUPERVISOR_PID", "POSTGRES_PASSWORD"),
)
# Kubernetes sets these in each container if there is a Service of the name `valetkey`.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+)").fullmatch
_MIN_SIMILARITY = 0.7
_KNOWN = {*SETTING_NAMES, *_OTHER_NAMES}


class UnknownVariable(NamedTuple):
    """A variable with our prefix that nothing reads, and the known one that is most like it."""

    name: str
    suggestion: str | None


def names_service(environ: Mapping[str, str]) -> bool:
    """Return whether a setting names a service, so that no `dev` is looked for."""
    return any(environ.get(name) for name in EXPLICIT_SETTINGS)


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[UnknownVariable]:
    """Return the variables with our prefix that nothing reads: they are probably misspelt."""
    names = [name for name in sorted(environ) if _is_unknown(name.upper())]
    return [UnknownVariable(name, _suggest(name.upper())) for name in names]


def _is_unknown(variable: str) -> bool:
    name = variable.removeprefix(PREFIX)
    is_ours = name != variable and name not in _KNOWN and not name.startswith("TEST_")
    return is_ours and not _OF_KUBERNETES(name)


def _suggest(variable: str) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415 - rarely needed

    name = variable.removeprefix(PREFIX)
    similar = get_close_matches(name, sorted(_KNOWN), n=1, cutoff=_MIN_SIMILARITY)
    return PREFIX + similar[0] if similar else None
