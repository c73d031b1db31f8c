"""The key in the client's configuration, and the tenant that it sets."""

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


def load(folder: Path, environ: dict[str, str] | None = None, **options: Any) -> config.Config:
    return config.load_config({"broker_url": REDIS} | options, environ or {}, folder)


def write_key(folder: Path, key: PrivateKey) -> Path:
    keyfiles.write_key_file(folder / "acme.key", key)
    return folder / "acme.key"


def write_dev_file(folder: Path, **settings: str) -> None:
    (folder / ".valetkey").mkdir()
    content = {"broker_url": REDIS, "result_url": REDIS, "tenant": "acme"} | settings
    (folder / ".valetkey" / "dev.json").write_text(json.dumps(content))


def key_id(loaded: config.Config) -> str | None:
    return None if loaded.key is None else loaded.key.id


def test_the_tenant_is_that_of_the_key(tmp_path: Path) -> None:
    loaded = load(tmp_path, key=dump_private_key(ACME))
    assert (key_id(loaded), loaded.tenant) == ("acme/2026-11", "acme")


def test_the_key_option_is_a_text_or_the_path_of_a_file(tmp_path: Path) -> None:
    path = write_key(tmp_path, ACME)
    for key in (dump_private_key(ACME), f"\n {dump_private_key(ACME)}\n", path):
        assert key_id(load(tmp_path, key=key)) == ACME.id


def test_a_key_can_come_from_the_environment(tmp_path: Path) -> None:
    path = write_key(tmp_path, ACME)
    for environ in ({"VALETKEY_KEY": dump_private_key(ACME)}, {"VALETKEY_KEY_FILE": str(path)}):
        assert key_id(load(tmp_path, environ)) == ACME.id


def test_the_key_option_takes_precedence_over_the_environment(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": dump_private_key(GLOBEX), "VALETKEY_KEY_FILE": "nowhere"}
    assert key_id(load(tmp_path, environ, key=dump_private_key(ACME))) == ACME.id
    assert key_id(load(tmp_path, environ, key=write_key(tmp_path, ACME))) == ACME.id
    assert key_id(load(tmp_path, environ)) == GLOBEX.id


def test_empty_variables_configure_no_key(tmp_path: Path) -> None:
    environ = {"VALETKEY_KEY": "", "VALETKEY_KEY_FILE": ""}
    assert load(tmp_path, environ, tenant="acme").key is None


@pytest.mark.parametrize("environ", [{}, {"VALETKEY_TENANT": "globex"}])
def test_a_key_of_another_tenant_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    options = {} if environ else {"tenant": "globex"}
    text = "the key 'acme/2026-11' belongs to the tenant 'acme', not to 'globex'"
    with pytest.raises(NotConfigured, match=text):
        load(tmp_path, environ, key=dump_private_key(ACME), **options)


def test_the_tenant_of_the_key_can_be_repeated(tmp_path: Path) -> None:
    assert load(tmp_path, key=dump_private_key(ACME), tenant="acme").tenant == "acme"


def test_a_path_in_place_of_a_key_is_refused_with_the_right_setting(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"set VALETKEY_KEY_FILE or pass a pathlib\.Path"):
        load(tmp_path, {"VALETKEY_KEY": "/run/secrets/acme.key"})


def test_an_invalid_key_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured) as raised:
        load(tmp_path, {"VALETKEY_KEY": '{"keys": "s3cret"}'})
    assert "s3cret" not in str(raised.value)


def test_the_repr_of_a_config_and_of_a_client_have_no_secret(tmp_path: Path) -> None:
    text = repr(load(tmp_path, key=dump_private_key(ACME))) + repr(
        Client(REDIS, key=dump_private_key(ACME))
    )
    assert not [key["d"] for key in json.loads(dump_private_key(ACME))["keys"] if key["d"] in text]


def test_a_key_takes_precedence_over_the_tenant_of_dev(tmp_path: Path) -> None:
    write_dev_file(tmp_path)
    loaded = load(tmp_path, broker_url=None, key=dump_private_key(GLOBEX))
    assert (key_id(loaded), loaded.tenant) == (GLOBEX.id, "globex")
