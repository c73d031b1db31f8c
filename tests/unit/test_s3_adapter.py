"""boto3's side of signing: credentials with their real end, and hosts that are boto3's own."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.boto import PLACES, Place
from worker.adapters.s3 import BETWEEN_LOOKS, S3
from worker.core.sigv4 import Credentials, Target
from worker.core.tenancy import Bucket
from worker.errors import Malformed, Transient

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)  # botocore refreshes by the real clock
LATER = NOW + BETWEEN_LOOKS


@pytest.fixture(autouse=True)
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the profiles "static" and "vault", whose credentials a process prints."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    looks = f'sh -c "echo >> {tmp_path}/looks; cat {tmp_path}/vault.json"'
    config.write_text(
        "[profile static]\naws_access_key_id = AKIASTATIC\naws_secret_access_key = SECRET\n"
        f"[profile vault]\ncredential_process = {looks}\n"
        "[profile onsite]\nendpoint_url = https://s3.onsite.example:9000\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def keep_in_vault(home: Path, access_key: str, life: timedelta) -> None:
    content = {
        "Version": 1,
        "AccessKeyId": access_key,
        "SecretAccessKey": "SECRET",
        "SessionToken": "TOKEN",
        "Expiration": (NOW + life).isoformat(),
    }
    (home / "vault.json").write_text(json.dumps(content))


def looks(home: Path) -> int:
    return len((home / "looks").read_text().splitlines())


def test_long_term_credentials_have_no_end() -> None:
    found = S3().credentials("static", NOW, HOUR)
    assert found == Credentials("AKIASTATIC", "SECRET")


def test_without_a_profile_boto3s_own_chain_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    assert S3().credentials(None, NOW, HOUR).access_key == "AKIAENV"


def test_temporary_credentials_say_when_they_end(aws: Path) -> None:
    # red when botocore renames the attribute that the end is read from
    keep_in_vault(aws, "ASIA1", 2 * HOUR)
    found = S3().credentials("vault", NOW, HOUR)
    assert found == Credentials("ASIA1", "SECRET", "TOKEN", NOW + 2 * HOUR)


def test_credentials_that_last_are_not_asked_for_again(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", 2 * HOUR)
    s3.credentials("vault", NOW, HOUR)
    s3.credentials("vault", LATER, HOUR)
    assert looks(aws) == 1


def test_credentials_that_would_end_too_soon_are_refreshed_first(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=30))
    s3.credentials("vault", NOW, timedelta(minutes=10))
    keep_in_vault(aws, "ASIA2", 2 * HOUR)
    assert s3.credentials("vault", LATER, HOUR).access_key == "ASIA2"


def test_credentials_that_can_never_last_are_not_refreshed_for_every_grant(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=30))
    for second in range(60):
        s3.credentials("vault", NOW + timedelta(seconds=second), HOUR)
    assert looks(aws) == 1
    s3.credentials("vault", LATER, HOUR)
    assert looks(aws) == 2


def test_credentials_with_twelve_minutes_left_are_used_where_nothing_better_comes(
    aws: Path,
) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=12))
    s3.credentials("vault", NOW, HOUR)
    found = s3.credentials("vault", LATER, HOUR)
    assert found.expires_at == NOW + timedelta(minutes=12)


def test_a_refresh_that_fails_leaves_the_shorter_life(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=30))
    s3.credentials("vault", NOW, HOUR)
    (aws / "vault.json").unlink()
    assert s3.credentials("vault", LATER, HOUR).access_key == "ASIA1"


def test_a_failed_refresh_is_not_tried_again_for_every_grant(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=30))
    s3.credentials("vault", NOW, HOUR)
    (aws / "vault.json").unlink()
    for second in range(10):
        s3.credentials("vault", LATER + timedelta(seconds=second), HOUR)
    assert looks(aws) == 2


def test_credentials_that_ended_and_cannot_be_refreshed_are_no_credentials(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", timedelta(minutes=-1))
    with pytest.raises(Transient, match="'vault'"):
        s3.credentials("vault", NOW, HOUR)


def test_a_profile_that_is_missing_is_named() -> None:
    with pytest.raises(Transient, match="'nobody'"):
        S3().credentials("nobody", NOW, HOUR)


def test_an_empty_chain_is_named_default() -> None:
    with pytest.raises(Transient, match="'default'"):
        S3().credentials(None, NOW, HOUR)


def test_what_a_provider_printed_is_not_in_the_error(aws: Path) -> None:
    (aws / "vault.json").write_text('{"Version": 1, "SecretAccessKey": "SECRET"')
    with pytest.raises(Transient) as caught:
        S3().credentials("vault", NOW, HOUR)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__  # so no traceback shows the provider's own error
    assert caught.value.__cause__ is None


def test_threads_share_one_look(aws: Path) -> None:
    s3 = S3()
    keep_in_vault(aws, "ASIA1", 2 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: s3.credentials("vault", NOW, HOUR), range(32)))
    assert len(found) == looks(aws) == 1


@pytest.mark.parametrize(
    ("place", "target"),
    [
        (PLACES[0], Target("https", "reports.s3.eu-west-1.amazonaws.com", "/", "eu-west-1")),
        (PLACES[1], Target("https", "s3.eu-west-1.amazonaws.com", "/my.reports/", "eu-west-1")),
        (PLACES[3], Target("https", "s3.amazonaws.com", "/reports/", "us-east-1")),
        (PLACES[4], Target("https", "reports.s3.cn-north-1.amazonaws.com.cn", "/", "cn-north-1")),
        (PLACES[6], Target("http", "127.0.0.1:8333", "/reports/", "eu-west-1")),
    ],
)
def test_a_bucket_is_where_boto3_puts_it_without_any_credentials(
    place: Place, target: Target
) -> None:
    assert S3().target(Bucket("any", *place)) == target


def test_an_endpoint_of_the_aws_profile_holds() -> None:
    bucket = Bucket("any", "reports", "eu-west-1", "path", profile="onsite")
    assert S3().target(bucket).host == "s3.onsite.example:9000"


def test_a_target_is_found_once() -> None:
    s3, bucket = S3(), Bucket("any", "reports", "eu-west-1")
    assert s3.target(bucket) is s3.target(Bucket("other", "reports", "eu-west-1"))


@pytest.mark.parametrize(
    "bucket",
    ["logs--use1-az4--x-s3", "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/ap"],
)
def test_a_bucket_that_is_signed_in_another_way_is_refused(bucket: str) -> None:
    with pytest.raises(Malformed, match="way of its own"):
        S3().target(Bucket("any", bucket, "eu-west-1"))


@pytest.mark.parametrize("wrong", [{"bucket": "a b"}, {"region": "x y"}, {"endpoint": "ftp"}])
def test_a_profile_that_boto3_refuses_is_malformed(wrong: dict[str, str]) -> None:
    right = {"bucket": "reports", "region": "eu-west-1", "endpoint": None, "profile": None}
    with pytest.raises(Malformed, match="cannot sign"):
        S3().target(SimpleNamespace(**right | wrong, addressing="virtual"))
