"""Reads the URL of the database without pydantic, for commands that need no other setting."""

import re
from collections.abc import Callable, Mapping

from valetkey.redis_urls import default_result_url
from worker import setting_checks
from worker.setting_names import PREFIX, SETTING_NAMES

_is_boolean = re.compile(r"true|false|0|1").fullmatch
_is_sweep = re.compile(r"[1-9][0-9]{0,2}(\.[0-9])?").fullmatch
_is_folder = re.compile(r"/[\w./-]*").fullmatch
_is_concurrency = re.compile(r"[1-9][0-9]{0,2}").fullmatch


def read_database_url(environ: Mapping[str, str]) -> str:
    """Return VALETKEY_DATABASE_URL or its default.

    All settings are checked together, as if they were read. Raises pydantic's ValidationError if
    one is invalid.
    """
    variables = {name.upper(): value for name, value in environ.items()}
    values = {
        name: variables[PREFIX + name] for name in SETTING_NAMES if PREFIX + name in variables
    }
    try:
        for name, value in values.items():
            _CHECKS[name](value)
    except (KeyError, ValueError):
        return _read_with_all_settings()
    url = values.get("DATABASE_URL", setting_checks.DEFAULT_DATABASE_URL)
    return setting_checks.check_database_url(url)


def _read_with_all_settings() -> str:
    from worker.settings import Settings  # noqa: PLC0415 - takes longer to import than to query

    return Settings().database_url.get_secret_value()


def _check_broker(url: str) -> None:
    default = default_result_url(setting_checks.check_redis_url(url))
    setting_checks.check_redis_url(default or "")


def _check_origin(name: str) -> None:
    setting_checks.check_origin(name)
    _check_text(str.strip)(name)


def _check_text(is_valid: Callable[[str], object]) -> Callable[[str], object]:
    def check(value: str) -> None:
        if not is_valid(value):
            raise ValueError

    return check


# Each accepts nothing that Settings refuses. What it does not accept, Settings decides.
_CHECKS: Mapping[str, Callable[[str], object]] = {
    "BROKER_URL": _check_broker,
    "RESULT_URL": setting_checks.check_redis_url,
    "DATABASE_URL": setting_checks.check_database_url,
    "S3_ENDPOINT": setting_checks.check_endpoint,
    "S3_INTERNAL_ENDPOINT": setting_checks.check_endpoint,
    "STS_ENDPOINT": setting_checks.check_endpoint,
    "IAM_ENDPOINT": setting_checks.check_endpoint,
    "DEVELOPMENT": _check_text(_is_boolean),
    "SWEEP_SECONDS": _check_text(_is_sweep),
    "CONCURRENCY": _check_text(_is_concurrency),
    "AUDIT_KEY_FILE": _check_text(str.strip),
    "AUDIT_ORIGIN": _check_origin,
    "AUDIT_CHECKPOINTS": _check_text(_is_folder),
    "AUDIT_WEBHOOK_SECRET": setting_checks.check_secret_reference,
    "AUDIT_CHECKPOINT_SECONDS": _check_text(_is_sweep),
}
