import json
import os
import tomllib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import KeySet

from valetkey.crypto import keyfiles
from valetkey.crypto.jose import SignedToken, sign, unseal
from valetkey.crypto.keys import (
    dump_private_key,
    generate_key,
    load_private_key,
    load_public_key,
    public_key_line,
)
from valetkey.errors import NotConfigured
from worker.core.auth.seal import seal

KEY = generate_key("acme/2026-11")


def secrets_of(text: str) -> list[str]:
    return [key["d"] for key in json.loads(text)["keys"]]


def test_a_key_is_read_as_it_was_written() -> None:
    read = load_private_key(dump_private_key(KEY))
    assert (read.id, read.tenant) == ("acme/2026-11", "acme")
    assert json.loads(dump_private_key(read)) == json.loads(dump_private_key(KEY))


def test_a_key_is_one_line_that_any_library_reads() -> None:
    assert "\n" not in dump_private_key(KEY)
    keys = KeySet.import_key_set(json.loads(dump_private_key(KEY))).keys
    assert [(key.kid, key.get("use"), key.is_private) for key in keys] == [
        ("acme/2026-11", "sig", True),
        ("acme/2026-11", "enc", True),
    ]


def test_the_public_line_declares_the_keys_own_counterpart() -> None:
    halves = tomllib.loads(public_key_line(KEY))["2026-11"]
    public = load_public_key(**halves)
    assert SignedToken(sign(b"x", KEY)).content(public) == b"x"
    assert unseal(seal(b"x", KEY.id, public), KEY) == b"x"


def test_no_two_keys_are_alike() -> None:
    made = [
        secret for _ in range(10) for secret in secrets_of(dump_private_key(generate_key("a/b")))
    ]
    assert len(set(made)) == 20


def test_a_key_prints_its_name_and_no_secret() -> None:
    assert "acme/2026-11" in repr(KEY)
    assert not [secret for secret in secrets_of(dump_private_key(KEY)) if secret in f"{KEY!r}{KEY}"]
    assert not [
        secret for secret in secrets_of(dump_private_key(KEY)) if secret in public_key_line(KEY)
    ]


def without(name: str) -> str:
    keys = [
        {k: v for k, v in key.items() if k != name}
        for key in json.loads(dump_private_key(KEY))["keys"]
    ]
    return json.dumps({"keys": keys})


def changed(**changes: Any) -> str:
    return json.dumps(
        {"keys": [key | changes for key in json.loads(dump_private_key(KEY))["keys"]]}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3cret",
        "[]",
        '{"keys": []}',
        "[" * 100_000,
        without("d"),
        without("x"),
        without("use"),
        without("kid"),
        changed(crv="P-256"),
        changed(d="s3cret"),
        changed(d=7),
        changed(kid="acme"),
        changed(kid="/x"),
        changed(kid=["acme/x"]),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(NotConfigured, match="is not what `valetkey keygen` writes") as caught:
        load_private_key(text)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_key_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keyfiles.write_key_file(tmp_path / "key", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    read = dump_private_key(keyfiles.read_key_file(tmp_path / "key"))
    assert secrets_of(read) == secrets_of(dump_private_key(KEY))


def test_a_file_is_never_replaced_by_a_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keyfiles.write_key_file(path, KEY)
    with pytest.raises(FileExistsError):
        keyfiles.write_key_file(path, generate_key("acme/other"))
    assert keyfiles.read_key_file(path).id == KEY.id


def test_nobodys_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        keyfiles.write_key_file(tmp_path / "link", KEY)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    keyfiles.write_key_file(path, KEY)
    path.chmod(mode)
    with pytest.raises(NotConfigured, match=f"others may read the key in {path}: chmod 600 {path}"):
        keyfiles.read_key_file(path)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"nowhere cannot be read: No such file"):
        keyfiles.read_key_file(tmp_path / "nowhere")
    with pytest.raises(NotConfigured, match="cannot be read: Is a directory"):
        keyfiles.read_key_file(tmp_path)


def test_a_file_that_holds_no_key_is_named_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"s3cret\xff")
    path.chmod(0o600)
    with pytest.raises(NotConfigured, match=f"{path}: the key is not what") as caught:
        keyfiles.read_key_file(path)
    assert "s3cret" not in str(caught.value)


_PRIME = 2**255 - 19
_EIGHTH = int.from_bytes(  # the y of a point whose order is 8
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL = [0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH, _PRIME, _PRIME + 1]


@pytest.mark.parametrize("sign_of_x", [0, 2**255], ids=["even", "odd"])
@pytest.mark.parametrize("y", _SMALL, ids=["0", "1", "-1", "e", "-e", "p", "p+1"])
def test_a_key_that_anybody_can_sign_for_is_none(y: int, sign_of_x: int) -> None:
    point = urlsafe_b64encode((y + sign_of_x).to_bytes(32, "little")).decode().rstrip("=")
    seal = json.loads(dump_private_key(KEY))["keys"][1]["x"]
    with pytest.raises(ValueError, match="anybody can sign for this key"):
        load_public_key(point, seal)


@pytest.mark.parametrize("half", [0, 1], ids=["sign", "seal"])
def test_a_key_has_one_spelling(half: int) -> None:
    halves = [key["x"] for key in json.loads(dump_private_key(KEY))["keys"]]
    spelled = halves[half]
    halves[half] = spelled[:-1] + chr(ord(spelled[-1]) + 1)
    assert urlsafe_b64decode(halves[half] + "=") == urlsafe_b64decode(spelled + "=")
    with pytest.raises(ValueError, match="43 characters of base64url"):
        load_public_key(*halves)


def test_a_key_that_agrees_on_no_secret_is_none() -> None:
    sign = json.loads(dump_private_key(KEY))["keys"][0]["x"]
    with pytest.raises(ValueError, match="shared key"):
        load_public_key(sign, "A" * 43)
