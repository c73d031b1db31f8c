"""Whose credentials sign: those that boto3 finds, or a role's that are held to one tenant."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError, NoCredentialsError

from worker.core.signing.session_policy import RoleSession
from worker.core.signing.sigv4 import Credentials
from worker.errors import Transient

# Where the longest life of credentials is below what is asked, every grant would ask for new ones.
# So a grant may get this much less life than it could have had.
REFRESH_INTERVAL = timedelta(minutes=1)

# STS answers in a fraction of a second or not at all; a chunk waits for it, and is sent again.
_PATIENCE = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class CredentialCache:
    """The credentials of one process: make it after fork; threads may share it.

    Whoever needs the same credentials while they are being renewed waits for them. sts_endpoint is
    where roles are assumed; without it, that is AWS's own in the bucket's region. What is kept for
    tenants that are gone stays until the process ends, some 2 kB each.
    """

    def __init__(self, sts_endpoint: str | None = None) -> None:
        self._sts_endpoint = sts_endpoint
        self._lock = Lock()
        self._kept: dict[tuple[str | None, RoleSession | None], _Kept] = {}
        self._sts: dict[tuple[str | None, str], Any] = {}

    def credentials(
        self, profile: str | None, role: RoleSession | None, now: datetime, needed: timedelta
    ) -> Credentials:
        """Those of an AWS profile or of boto3's default chain, or of a role that they may assume.

        They are renewed first where they would end within `needed`, and may still end sooner.
        Raises Transient where there are none that live.
        """
        with self._lock:
            kept = self._kept.get((profile, role))
            if kept is None:
                look = partial(self._assume, profile, role) if role else partial(_find, profile)
                kept = self._kept[profile, role] = _Kept(look)
        return kept.get(now, needed)

    def _assume(self, profile: str | None, role: RoleSession) -> Credentials:
        external = {} if role.external_id is None else {"ExternalId": role.external_id}
        with credential_errors(profile, role.arn):
            answer = self._client(profile, role.region).assume_role(
                RoleArn=role.arn,
                RoleSessionName=role.session,
                Policy=role.policy,
                DurationSeconds=role.seconds,
                **external,
            )
        found = answer["Credentials"]
        return Credentials(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found["SessionToken"],
            found["Expiration"].astimezone(UTC),
        )

    def _client(self, profile: str | None, region: str) -> Any:
        with self._lock:  # boto3 makes clients in one thread only; using them is safe in all
            if (profile, region) not in self._sts:
                self._sts[profile, region] = boto3.Session(profile_name=profile).client(
                    "sts", region_name=region, endpoint_url=self._sts_endpoint, config=_PATIENCE
                )
            return self._sts[profile, region]


class _Kept:
    """Credentials as they were last found, when that was, and how to look again."""

    def __init__(self, look: Callable[[], Credentials]) -> None:
        self._look = look
        self._lock = Lock()
        self._looked_at = _LONG_AGO
        self._found = Credentials("", "", expires_at=_LONG_AGO)

    def get(self, now: datetime, needed: timedelta) -> Credentials:
        with self._lock:
            recent = now - self._looked_at < REFRESH_INTERVAL and _lasts(self._found, now)
            if not recent and not _lasts(self._found, now + needed):
                self._renew(now)
            return self._found

    def _renew(self, now: datetime) -> None:
        self._looked_at = now
        try:
            self._found = self._look()
        except Transient:
            if not _lasts(self._found, now):  # else a shorter life is better than none
                raise


def _lasts(credentials: Credentials, until: datetime) -> bool:
    return credentials.expires_at is None or credentials.expires_at >= until


def _find(profile: str | None) -> Credentials:
    with credential_errors(profile):
        found = boto3.Session(profile_name=profile).get_credentials()
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, _end(found))


def _end(found: Any) -> datetime | None:
    """When credentials end; botocore keeps it to itself, and a test fails if it moves."""
    if not isinstance(found, RefreshableCredentials):
        return None
    end: datetime = found._expiry_time  # noqa: SLF001 - there is no public way
    return end.astimezone(UTC)


@contextmanager
def credential_errors(profile: str | None, role: str | None = None) -> Iterator[None]:
    """Say whose credentials cannot be had; not why in full, as providers quote what they read."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        reason = type(error).__name__
        if isinstance(error, ClientError):
            reason = error.response["Error"].get("Code", reason)
        whose = f"AWS profile {profile or 'default'!r}" + (f" for {role}" if role else "")
        raise Transient(f"no credentials of {whose}: {reason}") from None
