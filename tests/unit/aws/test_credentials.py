"""The credentials that boto3 finds, with their real expiry."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.fakes.credential_process import CredentialProcess
from valetkey.signing.sigv4 import Credentials
from worker.aws.credentials import REFRESH_INTERVAL, CredentialCache
from worker.errors import Transient

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


class Keys:
    """A cache, and a process that gives it credentials."""

    def __init__(self, vault: CredentialProcess) -> None:
        self.cache, self.vault = CredentialCache(), vault
        # The real time, because botocore compares it with the expiry of credentials.
        self.now = datetime.now(UTC).replace(microsecond=0)

    def write(self, access_key: str, lifetime: timedelta) -> None:
        self.vault.write_credentials(access_key, self.now + lifetime)

    def get(self, delay: timedelta = timedelta(), profile: str | None = "vault") -> Credentials:
        """Ask for credentials for an hour, after a delay."""
        return self.cache.get(profile, None, self.now + delay, HOUR)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    return Keys(CredentialProcess(tmp_path, monkeypatch))


def test_long_term_credentials_have_no_expiry(keys: Keys) -> None:
    assert keys.get(profile="static") == Credentials("AKIASTATIC", "SECRET")


def test_temporary_credentials_have_their_expiry(keys: Keys) -> None:
    # Fails if botocore renames the private attribute from which the expiry is read.
    keys.write("ASIA1", 2 * HOUR)
    assert keys.get() == Credentials("ASIA1", "SECRET", "TOKEN", keys.now + 2 * HOUR)


def test_credentials_that_are_valid_for_long_enough_are_not_renewed(keys: Keys) -> None:
    keys.write("ASIA1", 2 * HOUR)
    keys.get()
    keys.get(REFRESH_INTERVAL)
    assert keys.vault.call_count() == 1


def test_credentials_that_are_never_valid_for_long_enough_are_renewed_once_per_interval(
    keys: Keys,
) -> None:
    keys.write("ASIA1", 30 * MINUTE)
    for second in range(60):
        keys.get(second * SECOND)
    assert keys.vault.call_count() == 1
    keys.get(REFRESH_INTERVAL)
    assert keys.vault.call_count() == 2


@pytest.mark.parametrize("delay", [REFRESH_INTERVAL, 29 * MINUTE])
def test_credentials_that_cannot_be_renewed_are_used_until_their_last_minute(
    keys: Keys, delay: timedelta
) -> None:
    keys.write("ASIA1", 30 * MINUTE)
    keys.get()
    keys.vault.remove_output()
    assert keys.get(delay).access_key == "ASIA1"


def test_a_failed_renewal_is_not_tried_again_for_every_grant(keys: Keys) -> None:
    keys.write("ASIA1", 30 * MINUTE)
    keys.get()
    keys.vault.remove_output()
    for second in range(10):
        keys.get(REFRESH_INTERVAL + second * SECOND)
    assert keys.vault.call_count() == 2


def test_expired_credentials_that_cannot_be_renewed_raise_transient(keys: Keys) -> None:
    keys.write("ASIA1", -MINUTE)
    with pytest.raises(Transient, match="'vault'"):
        keys.get()


@pytest.mark.parametrize(("profile", "name"), [("nobody", "'nobody'"), (None, "'default'")])
def test_the_error_names_the_profile_that_has_no_credentials(
    keys: Keys, profile: str | None, name: str
) -> None:
    with pytest.raises(Transient, match=name):
        keys.get(profile=profile)


def test_the_error_does_not_contain_the_output_of_a_credential_process(keys: Keys) -> None:
    keys.vault.write_output('{"Version": 1, "SecretAccessKey": "SECRET"')
    with pytest.raises(Transient) as error:
        keys.get()
    assert "SECRET" not in str(error.value)
    assert error.value.__suppress_context__  # no traceback shows the provider's error
    assert error.value.__cause__ is None


def test_threads_share_one_renewal(keys: Keys) -> None:
    keys.write("ASIA1", 2 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        credentials = set(pool.map(lambda _: keys.get(), range(32)))
    assert len(credentials) == keys.vault.call_count() == 1


def test_credentials_are_not_used_after_their_expiry(keys: Keys) -> None:
    keys.write("ASIA1", 30 * MINUTE)
    keys.get(29 * MINUTE + 50 * SECOND)
    keys.vault.remove_output()
    with pytest.raises(Transient):
        keys.get(30 * MINUTE + SECOND)


def test_rejected_credentials_are_loaded_again_once_per_interval(keys: Keys) -> None:
    keys.write("ASIA1", 2 * HOUR)
    keys.get()
    keys.write("ASIA2", 2 * HOUR)
    assert not keys.cache.renew("vault", None, keys.now)  # just loaded: others are not to be had
    assert keys.cache.renew("vault", None, keys.now + REFRESH_INTERVAL)
    assert keys.get().access_key == "ASIA2"
    assert not keys.cache.renew("vault", None, keys.now + 2 * REFRESH_INTERVAL)
