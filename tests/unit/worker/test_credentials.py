"""The credentials that boto3 finds, with their real expiry."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.fakes.credential_process import CredentialProcess
from worker.aws.credentials import REFRESH_INTERVAL, CredentialCache
from worker.core.signing.sigv4 import Credentials
from worker.errors import Transient

HOUR = timedelta(hours=1)


@pytest.fixture
def now() -> datetime:
    """The real time, because botocore compares it with the expiry of credentials."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    return CredentialProcess(tmp_path, monkeypatch)


def test_long_term_credentials_have_no_expiry(now: datetime) -> None:
    credentials = CredentialCache().get("static", None, now, HOUR)
    assert credentials == Credentials("AKIASTATIC", "SECRET")


def test_without_a_profile_boto3s_default_chain_is_used(
    monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    assert CredentialCache().get(None, None, now, HOUR).access_key == "AKIAENV"


def test_temporary_credentials_have_their_expiry(vault: CredentialProcess, now: datetime) -> None:
    # Fails if botocore renames the private attribute from which the expiry is read.
    vault.write_credentials("ASIA1", now + 2 * HOUR)
    credentials = CredentialCache().get("vault", None, now, HOUR)
    assert credentials == Credentials("ASIA1", "SECRET", "TOKEN", now + 2 * HOUR)


def test_credentials_that_are_valid_for_long_enough_are_not_renewed(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + 2 * HOUR)
    cache.get("vault", None, now, HOUR)
    cache.get("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert vault.call_count() == 1


def test_credentials_that_expire_too_soon_are_renewed_first(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    cache.get("vault", None, now, timedelta(minutes=10))
    vault.write_credentials("ASIA2", now + 2 * HOUR)
    assert cache.get("vault", None, now + REFRESH_INTERVAL, HOUR).access_key == "ASIA2"


def test_credentials_that_are_never_valid_for_long_enough_are_renewed_once_per_interval(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    for second in range(60):
        cache.get("vault", None, now + timedelta(seconds=second), HOUR)
    assert vault.call_count() == 1
    cache.get("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert vault.call_count() == 2


def test_credentials_with_twelve_minutes_left_are_used_if_the_renewed_ones_are_no_better(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    cache.get("vault", None, now, HOUR)
    credentials = cache.get("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert credentials.expires_at == now + timedelta(minutes=12)


def test_if_the_renewal_fails_the_current_credentials_stay_in_use(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    cache.get("vault", None, now, HOUR)
    vault.remove_output()
    assert cache.get("vault", None, now + REFRESH_INTERVAL, HOUR).access_key == "ASIA1"


def test_a_failed_renewal_is_not_tried_again_for_every_grant(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    cache.get("vault", None, now, HOUR)
    vault.remove_output()
    for second in range(10):
        cache.get("vault", None, now + REFRESH_INTERVAL + timedelta(seconds=second), HOUR)
    assert vault.call_count() == 2


def test_expired_credentials_that_cannot_be_renewed_raise_transient(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=-1))
    with pytest.raises(Transient, match="'vault'"):
        cache.get("vault", None, now, HOUR)


def test_the_error_names_a_missing_profile(now: datetime) -> None:
    with pytest.raises(Transient, match="'nobody'"):
        CredentialCache().get("nobody", None, now, HOUR)


def test_the_error_names_an_empty_default_chain_default(now: datetime) -> None:
    with pytest.raises(Transient, match="'default'"):
        CredentialCache().get(None, None, now, HOUR)


def test_the_error_does_not_contain_the_output_of_a_credential_process(
    vault: CredentialProcess, now: datetime
) -> None:
    vault.write_output('{"Version": 1, "SecretAccessKey": "SECRET"')
    with pytest.raises(Transient) as error:
        CredentialCache().get("vault", None, now, HOUR)
    assert "SECRET" not in str(error.value)
    assert error.value.__suppress_context__  # no traceback shows the provider's error
    assert error.value.__cause__ is None


def test_threads_share_one_renewal(vault: CredentialProcess, now: datetime) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + 2 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        credentials = set(pool.map(lambda _: cache.get("vault", None, now, HOUR), range(32)))
    assert len(credentials) == vault.call_count() == 1


def test_credentials_that_cannot_be_renewed_are_used_until_their_last_minute(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    cache.get("vault", None, now, HOUR)
    vault.remove_output()
    last_minute = now + timedelta(minutes=29)
    assert cache.get("vault", None, last_minute, HOUR).access_key == "ASIA1"


def test_credentials_are_not_used_after_their_expiry(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + timedelta(minutes=30))
    cache.get("vault", None, now + timedelta(minutes=29, seconds=50), HOUR)
    vault.remove_output()
    with pytest.raises(Transient):
        cache.get("vault", None, now + timedelta(minutes=30, seconds=1), HOUR)


def test_rejected_credentials_are_loaded_again_once_per_interval(
    vault: CredentialProcess, now: datetime
) -> None:
    cache = CredentialCache()
    vault.write_credentials("ASIA1", now + 2 * HOUR)
    cache.get("vault", None, now, HOUR)
    vault.write_credentials("ASIA2", now + 2 * HOUR)
    assert not cache.renew("vault", None, now)  # just loaded: others are not to be had
    assert cache.renew("vault", None, now + REFRESH_INTERVAL)
    assert cache.get("vault", None, now, HOUR).access_key == "ASIA2"
    assert not cache.renew("vault", None, now + 2 * REFRESH_INTERVAL)
