"""The [tenants.NAME.keys] table of tenants.toml."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line
from worker.core.tenants.config import TenantConfig, TenantKey
from worker.usecases.tenants_file import FileProblem, read_tenants_file

SIGN = "w7DTgQDye4EINDWpcHWfA-FOgwydV-EMJwlAWMIT7co"
SEAL = "bKhNj3sdbuTJAbZYpldJBScLCK-5u6mCBbciIrzSpSk"
SECOND_SIGN = "a_DQox-36XgFDbUmoGukMAJn6m6jXfWodaIi6Qg-P2M"
SECOND_SEAL = "8WVqCq-qJ6394jKcrE1LkmZ6aSwqFmXgDjKdNcKKxUc"
LINE = f'billing = {{ sign = "{SIGN}", seal = "{SEAL}" }}'
SECOND = f'second = {{ sign = "{SECOND_SIGN}", seal = "{SECOND_SEAL}" }}'

ReadFile = Callable[[str], TenantConfig | list[FileProblem]]


@pytest.fixture
def read_file(tmp_path: Path) -> ReadFile:
    file = tmp_path / "tenants.toml"

    def read_file(text: str) -> TenantConfig | list[FileProblem]:
        file.write_text(text, encoding="utf-8")
        return read_tenants_file(file, development=False)

    return read_file


def only_key(result: TenantConfig | list[FileProblem]) -> TenantKey:
    assert isinstance(result, TenantConfig), result
    (key,) = result.tenants["acme"].keys.values()
    return key


def only_problem(result: TenantConfig | list[FileProblem]) -> FileProblem:
    assert isinstance(result, list)
    assert len(result) == 1, result
    return result[0]


def test_the_line_that_keygen_prints_is_accepted(read_file: ReadFile) -> None:
    line = public_key_line(generate_key("acme/billing-2026"))
    config = read_file(f"[tenants.acme.keys]\n{line}\n")
    assert isinstance(config, TenantConfig), config
    assert config.tenants["acme"].trust == "keys"
    assert list(config.tenants["acme"].keys) == ["billing-2026"]


def test_every_field_of_a_key_is_read(read_file: ReadFile) -> None:
    line = LINE.replace(" }", ", expires = 2027-11-25, revoked = true }")
    expires = datetime(2027, 11, 25, tzinfo=UTC)
    key = only_key(read_file(f"[tenants.acme.keys]\n{line}\n"))
    assert key == TenantKey("billing", SIGN, SEAL, expires, revoked=True)


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
    read_file: ReadFile, expires: str, hour: int
) -> None:
    line = LINE.replace(" }", f", expires = {expires} }}")
    key = only_key(read_file(f"[tenants.acme.keys]\n{line}\n"))
    assert key.expires == datetime(2027, 11, 25, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (SIGN, SIGN[:-1], "billing.sign"),
        (SIGN, f"{SIGN[:-1]}=", "billing.sign"),
        (SEAL, f"{SEAL[:-1]}+", "billing.seal"),
        (SEAL, SIGN, "billing"),
        (SIGN, f"{SIGN[:-1]}p", "billing"),  # another encoding of the same 32 bytes
        (f', seal = "{SEAL}"', "", "billing.seal"),
        (" }", ", expires = true }", "billing.expires"),
        (" }", ", expires = 08:00:00 }", "billing.expires"),
        (" }", ', expires = "in a year" }', "billing.expires"),
        (" }", ", expires = 0001-01-01T00:00:00+23:00 }", "billing.expires"),
        (" }", ", revoked = 1 }", "billing.revoked"),
        (" }", ", expire = 2027-11-25 }", "billing.expire"),
        ("billing", "Billing", "Billing"),
    ],
)
def test_an_invalid_part_of_a_key_is_refused_with_its_path(
    read_file: ReadFile, old: str, new: str, path: str
) -> None:
    line = LINE.replace(old, new)
    assert line != LINE
    problem = only_problem(read_file(f"[tenants.acme.keys]\n{line}\n"))
    assert (problem.path, problem.line) == (f"tenants.acme.keys.{path}", 2)


def test_an_unknown_field_of_a_key_has_the_known_one_as_its_hint(read_file: ReadFile) -> None:
    line = LINE.replace(" }", ", expire = 2027-11-25 }")
    assert only_problem(read_file(f"[tenants.acme.keys]\n{line}\n")).hint == "did you mean expires?"


def test_a_private_key_in_the_file_is_refused_and_not_repeated(read_file: ReadFile) -> None:
    private = dump_private_key(generate_key("acme/billing"))
    secret = private.partition('"d":"')[2].partition('"')[0]
    problems = read_file(f"[tenants.acme.keys]\nbilling = '{private}'\nd = {{ d = '{secret}' }}\n")
    assert isinstance(problems, list)
    assert secret
    assert secret not in str(problems)


@pytest.mark.parametrize(
    "text",
    [
        f"[tenants.acme.keys]\n{LINE}\n{LINE.replace('billing', 'again')}\n",
        f"[tenants.acme.keys]\n{LINE}\n[tenants.globex.keys]\n{LINE}\n",
        f"[tenants.acme.keys]\n{LINE}\n{SECOND.replace(SECOND_SEAL, SEAL)}\n",
        f"[tenants.acme.keys]\n{LINE}\n{SECOND.replace(SECOND_SIGN, SIGN)}\n",
    ],
)
def test_a_public_key_occurs_only_once(read_file: ReadFile, text: str) -> None:
    problem = only_problem(read_file(text))
    assert "this repeats a public key of acme/billing" in problem.message
    assert problem.message.endswith("(line 2)")
    assert problem.line == text.count("\n")
    assert str(problem.hint).startswith("create another key: valetkey keygen ")


def test_two_keys_are_a_rotation(read_file: ReadFile) -> None:
    config = read_file(f"[tenants.acme.keys]\n{LINE}\n{SECOND}\n")
    assert isinstance(config, TenantConfig)
    assert list(config.tenants["acme"].keys) == ["billing", "second"]
