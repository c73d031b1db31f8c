"""The credentials that boto3 finds, with their real end."""

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
    """The real time: botocore refreshes by it."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    return CredentialProcess(tmp_path, monkeypatch)


def test_long_term_credentials_have_no_end(now: datetime) -> None:
    found = CredentialCache().credentials("static", None, now, HOUR)
    assert found == Credentials("AKIASTATIC", "SECRET")


def test_without_a_profile_boto3s_own_chain_is_asked(
    monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    assert CredentialCache().credentials(None, None, now, HOUR).access_key == "AKIAENV"


def test_temporary_credentials_say_when_they_end(vault: CredentialProcess, now: datetime) -> None:
    # red when botocore renames the attribute that the end is read from
    vault.keep("ASIA1", now + 2 * HOUR)
    found = CredentialCache().credentials("vault", None, now, HOUR)
    assert found == Credentials("ASIA1", "SECRET", "TOKEN", now + 2 * HOUR)


def test_credentials_that_last_are_not_asked_for_again(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + 2 * HOUR)
    keyring.credentials("vault", None, now, HOUR)
    keyring.credentials("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert vault.looks() == 1


def test_credentials_that_would_end_too_soon_are_refreshed_first(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    keyring.credentials("vault", None, now, timedelta(minutes=10))
    vault.keep("ASIA2", now + 2 * HOUR)
    assert keyring.credentials("vault", None, now + REFRESH_INTERVAL, HOUR).access_key == "ASIA2"


def test_credentials_that_can_never_last_are_not_refreshed_for_every_grant(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    for second in range(60):
        keyring.credentials("vault", None, now + timedelta(seconds=second), HOUR)
    assert vault.looks() == 1
    keyring.credentials("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert vault.looks() == 2


def test_credentials_with_twelve_minutes_left_are_used_where_nothing_better_comes(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=12))
    keyring.credentials("vault", None, now, HOUR)
    found = keyring.credentials("vault", None, now + REFRESH_INTERVAL, HOUR)
    assert found.expires_at == now + timedelta(minutes=12)


def test_a_refresh_that_fails_leaves_the_shorter_life(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    keyring.credentials("vault", None, now, HOUR)
    vault.empty()
    assert keyring.credentials("vault", None, now + REFRESH_INTERVAL, HOUR).access_key == "ASIA1"


def test_a_failed_refresh_is_not_tried_again_for_every_grant(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    keyring.credentials("vault", None, now, HOUR)
    vault.empty()
    for second in range(10):
        keyring.credentials("vault", None, now + REFRESH_INTERVAL + timedelta(seconds=second), HOUR)
    assert vault.looks() == 2


def test_credentials_that_ended_and_cannot_be_refreshed_are_no_credentials(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=-1))
    with pytest.raises(Transient, match="'vault'"):
        keyring.credentials("vault", None, now, HOUR)


def test_a_profile_that_is_missing_is_named(now: datetime) -> None:
    with pytest.raises(Transient, match="'nobody'"):
        CredentialCache().credentials("nobody", None, now, HOUR)


def test_an_empty_chain_is_named_default(now: datetime) -> None:
    with pytest.raises(Transient, match="'default'"):
        CredentialCache().credentials(None, None, now, HOUR)


def test_what_a_provider_printed_is_not_in_the_error(
    vault: CredentialProcess, now: datetime
) -> None:
    vault.print('{"Version": 1, "SecretAccessKey": "SECRET"')
    with pytest.raises(Transient) as caught:
        CredentialCache().credentials("vault", None, now, HOUR)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__  # so no traceback shows the provider's own error
    assert caught.value.__cause__ is None


def test_threads_share_one_look(vault: CredentialProcess, now: datetime) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + 2 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: keyring.credentials("vault", None, now, HOUR), range(32)))
    assert len(found) == vault.looks() == 1


def test_in_its_last_minutes_a_key_that_cannot_be_renewed_still_signs(
    vault: CredentialProcess, now: datetime
) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    keyring.credentials("vault", None, now, HOUR)
    vault.empty()
    last = now + timedelta(minutes=29)
    assert keyring.credentials("vault", None, last, HOUR).access_key == "ASIA1"


def test_a_key_is_not_used_beyond_its_end(vault: CredentialProcess, now: datetime) -> None:
    keyring = CredentialCache()
    vault.keep("ASIA1", now + timedelta(minutes=30))
    keyring.credentials("vault", None, now + timedelta(minutes=29, seconds=50), HOUR)
    vault.empty()
    with pytest.raises(Transient):
        keyring.credentials("vault", None, now + timedelta(minutes=30, seconds=1), HOUR)
