"""The [tenants.NAME.keys] table of tenants.toml."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.support.builders.tenants_files import TenantsFile
from valetkey.crypto.keys import dump_private_key, generate_key
from worker.rules.tenant_config import TenantKey

SIGN = "w7DTgQDye4EINDWpcHWfA-FOgwydV-EMJwlAWMIT7co"
SEAL = "bKhNj3sdbuTJAbZYpldJBScLCK-5u6mCBbciIrzSpSk"
SECOND_SIGN = "a_DQox-36XgFDbUmoGukMAJn6m6jXfWodaIi6Qg-P2M"
SECOND_SEAL = "8WVqCq-qJ6394jKcrE1LkmZ6aSwqFmXgDjKdNcKKxUc"
LINE = f'billing = {{ sign = "{SIGN}", seal = "{SEAL}" }}'
SECOND = f'second = {{ sign = "{SECOND_SIGN}", seal = "{SECOND_SEAL}" }}'


def acme_keys(*lines: str) -> str:
    """Return a file in which acme has these keys."""
    return "\n".join(["[tenants.acme.keys]", *lines])


def with_field(field: str) -> str:
    """Return the file of a key with an additional field."""
    return acme_keys(LINE.replace(" }", f", {field} }}"))


def test_every_field_of_a_key_is_read(tenants_file: TenantsFile) -> None:
    config = tenants_file.config(with_field("expires = 2027-11-25, revoked = true"))
    expires = datetime(2027, 11, 25, tzinfo=UTC)
    assert config.tenants["acme"].keys == {
        "billing": TenantKey("billing", SIGN, SEAL, expires, revoked=True)
    }


@pytest.fixture
def far_east_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is not UTC."""
    monkeypatch.setenv("TZ", "XST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east_time_zone")
@pytest.mark.parametrize(
    ("expires", "hour"),
    [
        ("2027-11-25", 0),
        ('"2027-11-25"', 0),
        ("2027-11-25T08:00:00", 8),
        ("2027-11-25T08:00:00Z", 8),
        ("2027-11-25 09:00:00+01:00", 8),
        ('"2027-11-25T09:00+01:00"', 8),
    ],
)
def test_the_expiry_of_a_key_is_in_utc_by_default(
    tenants_file: TenantsFile, expires: str, hour: int
) -> None:
    config = tenants_file.config(with_field(f"expires = {expires}"))
    key = config.tenants["acme"].keys["billing"]
    assert key.expires == datetime(2027, 11, 25, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (SIGN, SIGN[:-1], "billing.sign"),
        (SIGN, f"{SIGN[:-1]}=", "billing.sign"),
        (SEAL, SIGN, "billing"),
        (SIGN, f"{SIGN[:-1]}p", "billing"),  # another encoding of the same 32 bytes
        (f', seal = "{SEAL}"', "", "billing.seal"),
        (" }", ", expires = 08:00:00 }", "billing.expires"),
        (" }", ', expires = "in a year" }', "billing.expires"),
        (" }", ", expires = 0001-01-01T00:00:00+23:00 }", "billing.expires"),
        ("billing", "Billing", "Billing"),
    ],
)
def test_an_invalid_part_of_a_key_is_refused_with_its_path(
    tenants_file: TenantsFile, old: str, new: str, path: str
) -> None:
    assert old in LINE
    problem = tenants_file.problem(acme_keys(LINE.replace(old, new)))
    assert (problem.path, problem.line) == (f"tenants.acme.keys.{path}", 2)


def test_a_private_key_in_the_file_is_refused_and_not_repeated(tenants_file: TenantsFile) -> None:
    private = dump_private_key(generate_key("acme/billing"))
    secret = private.partition('"d":"')[2].partition('"')[0]
    text = acme_keys(f"billing = '{private}'", f"d = {{ d = '{secret}' }}")
    assert secret
    assert secret not in str(tenants_file.problems(text))


@pytest.mark.parametrize(
    "text",
    [
        acme_keys(LINE, LINE.replace("billing", "again")),
        acme_keys(LINE, "[tenants.globex.keys]", LINE),
        acme_keys(LINE, SECOND.replace(SECOND_SEAL, SEAL)),
        acme_keys(LINE, SECOND.replace(SECOND_SIGN, SIGN)),
    ],
)
def test_a_public_key_occurs_only_once(tenants_file: TenantsFile, text: str) -> None:
    problem = tenants_file.problem(text)
    assert "this repeats a public key of acme/billing" in problem.message
    assert problem.message.endswith("(line 2)")
    assert problem.line == text.count("\n") + 1
    assert str(problem.hint).startswith("create another key: valetkey keygen ")
