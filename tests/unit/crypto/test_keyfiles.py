import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import KeySet

from valetkey.crypto import keyfiles
from valetkey.crypto.keys import (
    build_public_key,
    dump_private_key,
    generate_key,
    load_private_key,
    public_key_line,
)
from valetkey.errors import NotConfigured

KEY = generate_key("acme/2026-11")
TEXT = dump_private_key(KEY)
HALVES = json.loads(TEXT)["keys"]


def test_a_dumped_key_is_loaded_unchanged() -> None:
    loaded = load_private_key(TEXT)
    assert (loaded.id, loaded.tenant) == ("acme/2026-11", "acme")
    assert json.loads(dump_private_key(loaded)) == json.loads(TEXT)


def test_a_key_is_one_line_that_other_libraries_read() -> None:
    assert "\n" not in TEXT
    keys = KeySet.import_key_set(json.loads(TEXT)).keys
    assert [(key.kid, key.is_private) for key in keys] == [("acme/2026-11", True)] * 2
    assert [key.get("use") for key in keys] == ["sig", "enc"]


def test_the_repr_of_a_key_has_its_id_and_no_secret() -> None:
    assert "acme/2026-11" in repr(KEY)
    shown = f"{KEY!r}{KEY}{public_key_line(KEY)}"
    assert not [half["d"] for half in HALVES if half["d"] in shown]


def changed(**changes: Any) -> str:
    """Return a key file with these members in both halves; None removes a member."""
    halves = [half | changes for half in HALVES]
    return json.dumps(
        {"keys": [{n: v for n, v in half.items() if v is not None} for half in halves]}
    )


@pytest.mark.parametrize(
    "text",
    [
        "s3cret",
        "[]",
        '{"keys": []}',
        "[" * 100_000,
        *(changed(**{name: None}) for name in ("d", "x", "use", "kid")),
        *(changed(kid=kid) for kid in ("acme", "/x", ["acme/x"])),
        *(changed(crv="P-256"), changed(d="s3cret"), changed(d=7)),
    ],
)
def test_a_malformed_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(NotConfigured, match="is not what `valetkey keygen` writes") as caught:
        load_private_key(text)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_key_file_is_private_to_its_owner_with_any_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        keyfiles.write_key_file(tmp_path / "key", KEY)
    finally:
        os.umask(umask)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    written = dump_private_key(keyfiles.read_key_file(tmp_path / "key"))
    assert json.loads(written) == json.loads(TEXT)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        keyfiles.write_key_file(tmp_path / "link", KEY)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_file_that_other_users_can_access_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    keyfiles.write_key_file(path, KEY)
    path.chmod(mode)
    text = f"other users have access to the key in {path}: run chmod 600 {path}"
    with pytest.raises(NotConfigured, match=text):
        keyfiles.read_key_file(path)


def test_an_unreadable_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"nowhere cannot be read: No such file"):
        keyfiles.read_key_file(tmp_path / "nowhere")
    with pytest.raises(NotConfigured, match="cannot be read: Is a directory"):
        keyfiles.read_key_file(tmp_path)


def test_a_file_without_a_key_is_named_and_its_content_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"s3cret\xff")
    path.chmod(0o600)
    with pytest.raises(NotConfigured, match=f"{path}: the key is not what") as caught:
        keyfiles.read_key_file(path)
    assert "s3cret" not in str(caught.value)


_PRIME = 2**255 - 19
_Y_OF_ORDER_8 = int.from_bytes(  # the y coordinate of a point of order 8
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = [0, 1, _PRIME - 1, _Y_OF_ORDER_8, _PRIME - _Y_OF_ORDER_8, _PRIME, _PRIME + 1]


@pytest.mark.parametrize("sign_of_x", [0, 2**255], ids=["even", "odd"])
@pytest.mark.parametrize("y", _SMALL_ORDER_Y, ids=["0", "1", "-1", "e", "-e", "p", "p+1"])
def test_a_public_key_of_small_order_is_refused(y: int, sign_of_x: int) -> None:
    point = urlsafe_b64encode((y + sign_of_x).to_bytes(32, "little")).decode().rstrip("=")
    with pytest.raises(ValueError, match="anybody can sign for this key"):
        build_public_key(point, HALVES[1]["x"])


@pytest.mark.parametrize("half", [0, 1], ids=["sign", "seal"])
def test_a_second_spelling_of_a_public_key_is_refused(half: int) -> None:
    halves = [each["x"] for each in HALVES]
    original = halves[half]
    halves[half] = original[:-1] + chr(ord(original[-1]) + 1)
    assert urlsafe_b64decode(halves[half] + "=") == urlsafe_b64decode(original + "=")
    with pytest.raises(ValueError, match="43 characters of base64url"):
        build_public_key(*halves)


def test_a_public_key_without_key_agreement_is_refused() -> None:
    with pytest.raises(ValueError, match="shared key"):
        build_public_key(HALVES[0]["x"], "A" * 43)
