"""Whose key a client has, and so for whom it speaks."""

import json
from pathlib import Path
from typing import Any

import pytest

from valetkey import Client, config
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key
from valetkey.errors import NotConfigured

REDIS = "redis://broker.test:6379/1"
ACME, GLOBEX = generate_key("acme/2026-11"), generate_key("globex/2026-11")


def load(folder: Path, environ: dict[str, str] | None = None, **given: Any) -> config.Config:
    return config.load({"broker_url": REDIS} | given, environ or {}, folder)


def file(folder: Path, key: PrivateKey) -> Path:
    keyfiles.write_key_file(folder / "acme.key", key)
    return folder / "acme.key"


def dev_file(folder: Path, **settings: str) -> None:
    (folder / ".valetkey").mkdir()
    found = {"broker_url": REDIS, "result_url": REDIS, "tenant": "acme"} | settings
    (folder / ".valetkey" / "dev.json").write_text(json.dumps(found))


def id_of(found: config.Config) -> str | None:
    return None if found.key is None else found.key.id


def test_the_tenant_is_the_keys(tmp_path: Path) -> None:
    found = load(tmp_path, key=dump_private_key(ACME))
    assert (id_of(found), found.tenant) == ("acme/2026-11", "acme")


def test_a_key_is_given_as_text_or_as_the_path_of_its_file(tmp_path: Path) -> None:
    path = file(tmp_path, ACME)
    for key in (dump_private_key(ACME), f"\n {dump_private_key(ACME)}\n", path):
        assert id_of(load(tmp_path, key=key)) == ACME.id


def test_a_key_is_found_in_the_environment(tmp_path: Path) -> None:
    path = file(tmp_path, ACME)
    for environ in ({"VALETKEY_KEY": dump_private_key(ACME)}, {"VALETKEY_KEY_FILE": str(path)}):
        assert id_of(load(tmp_path, environ)) == ACME.id


def test_the_key_that_is_given_goes_before_the_environments(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": dump_private_key(GLOBEX), "VALETKEY_KEY_FILE": "nowhere"}
    assert id_of(load(tmp_path, environ, key=dump_private_key(ACME))) == ACME.id
    assert id_of(load(tmp_path, environ, key=file(tmp_path, ACME))) == ACME.id
    assert id_of(load(tmp_path, environ)) == GLOBEX.id


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": "", "VALETKEY_KEY_FILE": ""}
    assert load(tmp_path, environ, tenant="acme").key is None


@pytest.mark.parametrize("environ", [{}, {"VALETKEY_TENANT": "globex"}])
def test_a_key_speaks_for_no_other_tenant(tmp_path: Path, environ: dict[str, str]) -> None:
    given = {} if environ else {"tenant": "globex"}
    text = "the key 'acme/2026-11' speaks for 'acme', not for 'globex'"
    with pytest.raises(NotConfigured, match=text):
        load(tmp_path, environ, key=dump_private_key(ACME), **given)


def test_the_tenant_may_be_said_as_well(tmp_path: Path) -> None:
    assert load(tmp_path, key=dump_private_key(ACME), tenant="acme").tenant == "acme"


def test_a_path_where_a_key_belongs_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"set VALETKEY_KEY_FILE or give its pathlib\.Path"):
        load(tmp_path, {"VALETKEY_KEY": "/run/secrets/acme.key"})


def test_a_wrong_key_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured) as caught:
        load(tmp_path, {"VALETKEY_KEY": '{"keys": "s3cret"}'})
    assert "s3cret" not in str(caught.value)


def test_no_secret_is_in_what_a_configuration_or_a_client_prints(tmp_path: Path) -> None:
    shown = repr(load(tmp_path, key=dump_private_key(ACME))) + repr(
        Client(REDIS, key=dump_private_key(ACME))
    )
    assert not [key["d"] for key in json.loads(dump_private_key(ACME))["keys"] if key["d"] in shown]


def test_a_running_dev_names_its_key_from_its_own_folder(tmp_path: Path) -> None:
    dev_file(tmp_path, key_file="acme.key")
    file(tmp_path / ".valetkey", ACME)
    found = load(tmp_path, broker_url=None)
    assert (id_of(found), found.tenant) == (ACME.id, "acme")


def test_the_key_of_a_running_dev_is_its_own_tenants_alone(tmp_path: Path) -> None:
    dev_file(tmp_path, key_file="acme.key")
    file(tmp_path / ".valetkey", ACME)
    found = load(tmp_path, broker_url=None, tenant="globex")
    assert (id_of(found), found.tenant) == (None, "globex")


def test_a_key_goes_before_the_tenant_of_a_running_dev(tmp_path: Path) -> None:
    dev_file(tmp_path)
    found = load(tmp_path, broker_url=None, key=dump_private_key(GLOBEX))
    assert (id_of(found), found.tenant) == (GLOBEX.id, "globex")
