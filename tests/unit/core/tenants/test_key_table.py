"""[tenants.NAME.keys] of tenants.toml."""

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
OTHER = "a_DQox-36XgFDbUmoGukMAJn6m6jXfWodaIi6Qg-P2M"
OTHERS = "8WVqCq-qJ6394jKcrE1LkmZ6aSwqFmXgDjKdNcKKxUc"
LINE = f'billing = {{ sign = "{SIGN}", seal = "{SEAL}" }}'
SECOND = f'second = {{ sign = "{OTHER}", seal = "{OTHERS}" }}'

Read = Callable[[str], TenantConfig | list[FileProblem]]


@pytest.fixture
def reads(tmp_path: Path) -> Read:
    file = tmp_path / "tenants.toml"

    def reads(text: str) -> TenantConfig | list[FileProblem]:
        file.write_text(text, encoding="utf-8")
        return read_tenants_file(file, development=False)

    return reads


def only_key(found: TenantConfig | list[FileProblem]) -> TenantKey:
    assert isinstance(found, TenantConfig), found
    (key,) = found.tenants["acme"].keys.values()
    return key


def only_problem(found: TenantConfig | list[FileProblem]) -> FileProblem:
    assert isinstance(found, list)
    assert len(found) == 1, found
    return found[0]


def test_the_line_that_keygen_prints_is_taken_and_signs_for_the_tenant(reads: Read) -> None:
    line = public_key_line(generate_key("acme/billing-2026"))
    declared = reads(f"[tenants.acme.keys]\n{line}\n")
    assert isinstance(declared, TenantConfig), declared
    assert declared.tenants["acme"].trust == "keys"
    assert list(declared.tenants["acme"].keys) == ["billing-2026"]


def test_a_key_is_read_whole(reads: Read) -> None:
    line = LINE.replace(" }", ", expires = 2027-11-25, revoked = true }")
    expires = datetime(2027, 11, 25, tzinfo=UTC)
    key = only_key(reads(f"[tenants.acme.keys]\n{line}\n"))
    assert key == TenantKey("billing", SIGN, SEAL, expires, revoked=True)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time is not UTC."""
    monkeypatch.setenv("TZ", "XST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
@pytest.mark.parametrize(
    ("moment", "hour"),
    [
        ("2027-11-25", 0),
        ('"2027-11-25"', 0),
        ("2027-11-25T08:00:00", 8),
        ("2027-11-25T08:00:00Z", 8),
        ("2027-11-25 09:00:00+01:00", 8),
        ('"2027-11-25T09:00+01:00"', 8),
    ],
)
def test_a_key_expires_at_a_moment_that_is_in_utc_where_nothing_else_is_said(
    reads: Read, moment: str, hour: int
) -> None:
    line = LINE.replace(" }", f", expires = {moment} }}")
    key = only_key(reads(f"[tenants.acme.keys]\n{line}\n"))
    assert key.expires == datetime(2027, 11, 25, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("part", "instead", "path"),
    [
        (SIGN, SIGN[:-1], "billing.sign"),
        (SIGN, f"{SIGN[:-1]}=", "billing.sign"),
        (SEAL, f"{SEAL[:-1]}+", "billing.seal"),
        (SEAL, SIGN, "billing"),
        (SIGN, f"{SIGN[:-1]}p", "billing"),  # the same 32 bytes, written in another way
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
def test_a_wrong_part_of_a_key_is_refused_by_its_path(
    reads: Read, part: str, instead: str, path: str
) -> None:
    line = LINE.replace(part, instead)
    assert line != LINE
    problem = only_problem(reads(f"[tenants.acme.keys]\n{line}\n"))
    assert (problem.path, problem.line) == (f"tenants.acme.keys.{path}", 2)


def test_an_unknown_field_of_a_key_has_the_known_one_as_its_hint(reads: Read) -> None:
    line = LINE.replace(" }", ", expire = 2027-11-25 }")
    assert only_problem(reads(f"[tenants.acme.keys]\n{line}\n")).hint == "did you mean expires?"


def test_a_private_key_in_the_file_is_refused_and_not_repeated(reads: Read) -> None:
    private = dump_private_key(generate_key("acme/billing"))
    secret = private.partition('"d":"')[2].partition('"')[0]
    problems = reads(f"[tenants.acme.keys]\nbilling = '{private}'\nd = {{ d = '{secret}' }}\n")
    assert isinstance(problems, list)
    assert secret
    assert secret not in str(problems)


@pytest.mark.parametrize(
    "text",
    [
        f"[tenants.acme.keys]\n{LINE}\n{LINE.replace('billing', 'again')}\n",
        f"[tenants.acme.keys]\n{LINE}\n[tenants.globex.keys]\n{LINE}\n",
        f"[tenants.acme.keys]\n{LINE}\n{SECOND.replace(OTHERS, SEAL)}\n",
        f"[tenants.acme.keys]\n{LINE}\n{SECOND.replace(OTHER, SIGN)}\n",
    ],
)
def test_a_key_speaks_for_one_tenant_by_one_name(reads: Read, text: str) -> None:
    problem = only_problem(reads(text))
    assert "the key acme/billing again" in problem.message
    assert problem.message.endswith("(line 2)")
    assert problem.line == text.count("\n")
    assert str(problem.hint).startswith("make another: valetkey keygen ")


def test_two_keys_are_a_rotation(reads: Read) -> None:
    declared = reads(f"[tenants.acme.keys]\n{LINE}\n{SECOND}\n")
    assert isinstance(declared, TenantConfig)
    assert list(declared.tenants["acme"].keys) == ["billing", "second"]
