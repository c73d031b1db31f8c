"""The credentials that sign: those that boto3 finds, or those of a role session of one tenant."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.loaders import Loader

from valetkey.signing.sigv4 import Credentials
from worker.errors import Malformed, Transient
from worker.rules.role_session import RoleSession


class _SharedLoader(Loader):  # type: ignore[misc] # botocore has no types
    """The files of botocore, read once for a process instead of once for each session.

    Reading them again takes 50 ms and 12 MB for each client of S3.
    """

    @property
    def search_paths(self) -> list[str]:
        # boto3 appends a folder for each session, which has only what clients do not need.
        return list(super().search_paths)


_LOADER = _SharedLoader()


def create_session(profile: str | None) -> boto3.Session:
    """Create a session of an AWS profile, or of boto3's default. Raises as boto3 does."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    boto_session = boto3.Session(profile_name=profile, botocore_session=session)
    # Raises for a profile that does not exist. boto3 does so here to find a loader's folders.
    session.get_scoped_config()
    return boto_session


def load_service_files() -> None:
    """Read what clients of S3 need, so that processes share it that are forked later."""
    no_keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "-")
    # A wrong AWS setting is reported with each use of it. Some of them are plain ValueErrors.
    with suppress(BotoCoreError, ValueError):
        create_session(None).client("s3", region_name="us-east-1", **no_keys)


# If credentials never last as long as requested, every grant would ask for new ones. Within this
# time they are not renewed, so a grant may be shorter by that much.
REFRESH_INTERVAL = timedelta(minutes=1)

# STS responds in a fraction of a second or not at all. A chunk waits for it, and is sent again.
_STS_CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
# What STS answers if the role, its trust policy or the keys that ask are wrong. A retry changes
# nothing: an operator has to.
_PERMANENT_CODES = frozenset(
    {
        "AccessDenied",
        "InvalidClientTokenId",
        "InvalidParameterValue",
        "MalformedPolicyDocument",
        "NoSuchEntity",
        "PackedPolicyTooLarge",
        "RegionDisabledException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "ValidationError",
    }
)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class CredentialCache:
    """Caches the credentials of AWS profiles and role sessions, and renews them before they expire.

    Create it after forking; threads may share it.

    Threads that need the same credentials wait while one renews them. sts_endpoint is where roles
    are assumed; None means AWS in the bucket's region. Entries of removed tenants stay until the
    process ends, at about 2 kB each.
    """

    def __init__(self, sts_endpoint: str | None = None) -> None:
        self._sts_endpoint = sts_endpoint
        self._lock = Lock()
        self._entries: dict[tuple[str | None, RoleSession | None], _CachedCredentials] = {}
        self._sts_clients: dict[tuple[str | None, str], Any] = {}

    def get(
        self,
        profile: str | None,
        session: RoleSession | None,
        now: datetime,
        min_validity: timedelta,
    ) -> Credentials:
        """Return the credentials of an AWS profile, or of a role session that they may create.

        profile None means boto3's default chain. The credentials are renewed if they expire within
        min_validity, and may still expire sooner. A session that was ended is renewed at once.
        Raises Transient if there are none, and Malformed if the role cannot be assumed.
        """
        earliest_end = session.earliest_end if session else _LONG_AGO
        return self._entry(profile, session).get(now, min_validity, earliest_end)

    def renew(self, profile: str | None, session: RoleSession | None, now: datetime) -> bool:
        """Load credentials again that storage rejects; return true if there are others now.

        Credentials that were loaded within REFRESH_INTERVAL stay. Raises as `get` does.
        """
        return self._entry(profile, session).renew(now)

    def _entry(self, profile: str | None, session: RoleSession | None) -> "_CachedCredentials":
        with self._lock:
            entry = self._entries.get((profile, session))
            if entry is None:
                load = partial(_load_credentials, profile)
                if session:
                    load = partial(self._assume, profile, session)
                entry = self._entries[profile, session] = _CachedCredentials(load)
            return entry

    def _assume(self, profile: str | None, session: RoleSession) -> Credentials:
        external_id = {} if session.external_id is None else {"ExternalId": session.external_id}
        with credential_errors(profile, session.role_arn):
            response = self._sts_client(profile, session.region).assume_role(
                RoleArn=session.role_arn,
                RoleSessionName=session.name,
                Policy=session.policy,
                DurationSeconds=session.seconds,
                **external_id,
            )
        credentials = response["Credentials"]
        return Credentials(
            credentials["AccessKeyId"],
            credentials["SecretAccessKey"],
            credentials["SessionToken"],
            credentials["Expiration"].astimezone(UTC),
        )

    def _sts_client(self, profile: str | None, region: str) -> Any:
        # Not locked: creating it loads the profile's credentials, which may take long, and another
        # profile must not wait for that. Threads that do it at once create one each.
        client = self._sts_clients.get((profile, region))
        if client is None:
            client = self._sts_clients[profile, region] = create_session(profile).client(
                "sts", region_name=region, endpoint_url=self._sts_endpoint, config=_STS_CONFIG
            )
        return client


class _CachedCredentials:
    """Cached credentials, the time of the last load, and how to load them again."""

    def __init__(self, load: Callable[[], Credentials]) -> None:
        self._load = load
        self._lock = Lock()
        self._loaded_at = _LONG_AGO
        self._credentials = Credentials("", "", expires_at=_LONG_AGO)

    def get(self, now: datetime, min_validity: timedelta, earliest_end: datetime) -> Credentials:
        with self._lock:
            usable_until = max(now, earliest_end)
            wanted_until = max(now + min_validity, earliest_end)
            is_recent = now - self._loaded_at < REFRESH_INTERVAL
            is_usable = is_recent and _is_valid_until(self._credentials, usable_until)
            if not is_usable and not _is_valid_until(self._credentials, wanted_until):
                self._renew(now, usable_until)
            # A new session is also too old if the clock of STS has not reached the time yet. Its
            # links would stop working as soon as the role's policy denies it.
            if not _is_valid_until(self._credentials, earliest_end):
                raise Transient("the sessions of the role are being ended", "credentials")
            return self._credentials

    def renew(self, now: datetime) -> bool:
        with self._lock:
            if now - self._loaded_at < REFRESH_INTERVAL:
                return False
            before = self._credentials
            self._renew(now, now)
            return self._credentials != before

    def _renew(self, now: datetime, usable_until: datetime) -> None:
        self._loaded_at = now
        try:
            self._credentials = self._load()
        except (Malformed, Transient):
            # Else a shorter validity will do.
            if not _is_valid_until(self._credentials, usable_until):
                raise


def _is_valid_until(credentials: Credentials, moment: datetime) -> bool:
    return credentials.expires_at is None or credentials.expires_at >= moment


def _load_credentials(profile: str | None) -> Credentials:
    with credential_errors(profile):
        credentials = create_session(profile).get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
        expires_at = _expiry(credentials)
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, expires_at)


def _expiry(credentials: Any) -> datetime | None:
    """Return the expiry of credentials. botocore has no public name for it; a test watches it."""
    if not isinstance(credentials, RefreshableCredentials):
        return None
    expires_at: datetime = credentials._expiry_time  # noqa: SLF001 - there is no public name
    return expires_at.astimezone(UTC)


@contextmanager
def credential_errors(profile: str | None, role_arn: str | None = None) -> Iterator[None]:
    """Turn any error into Transient, or into Malformed if STS denies the role.

    The new error names the profile and role and only the kind of error. Providers quote what they
    read, so their messages are not repeated.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        reason = type(error).__name__
        if isinstance(error, ClientError):
            reason = error.response["Error"].get("Code", reason)
        owner = f"AWS profile {profile or 'default'!r}" + (f" for {role_arn}" if role_arn else "")
        is_denied = isinstance(error, ClientError) and reason in _PERMANENT_CODES
        text = f"no credentials of {owner}: {reason}"
        raise (Malformed(text) if is_denied else Transient(text, "credentials")) from None
