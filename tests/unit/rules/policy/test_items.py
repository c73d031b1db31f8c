import base64
from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders.messages import (
    POLICY,
    download_message,
    multipart_message,
    parts_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from worker.rules import decisions
from worker.rules.tenant_config import Policy

SHA256 = base64.b64encode(bytes(32)).decode()
CRC32 = base64.b64encode(bytes(4)).decode()


def refusal_code_and_field(
    raw: dict[str, Any], policy: Policy = POLICY, **fields: Any
) -> tuple[str, str] | None:
    raw = raw | {"items": [{**raw["items"][0], **fields}]}
    message = ChunkMessage.model_validate(raw)
    refusal = decisions.item_refusal(message.items[0], message.grant, policy, "items[0]")
    return None if refusal is None else (str(refusal.code), refusal.field)


PLAIN = download_message(plain=True)
PUT = put_message({"acme/a.png": 30}, max_size=100)
MULTIPART = multipart_message(size=2**30)
PARTS = parts_message("b.0", 10_000)


@pytest.mark.parametrize(
    ("raw", "item"),
    [
        (download_message(), {"filename": "a.pdf", "version_id": "3sL4kqtJ.rmSpXd-_x"}),
        (PLAIN, {"version_id": "v"}),
        (upload_message(), {"checksum": {"algorithm": "sha256", "value": SHA256}}),
        (upload_message(), {"size": 500_000}),
        (PUT, {"checksum": {"algorithm": "crc32c", "value": CRC32}}),
        (PUT, {"size": 0}),
        (MULTIPART, {}),
        (PARTS, {}),
    ],
)
def test_an_item_may_have_the_fields_of_its_kind(raw: dict[str, Any], item: dict[str, Any]) -> None:
    assert refusal_code_and_field(raw, **item) is None


@pytest.mark.parametrize(
    ("raw", "item", "code", "field"),
    [
        (download_message(), {"size": 1}, "unknown_field", "items[0].size"),
        (upload_message(), {"filename": "a"}, "unknown_field", "items[0].filename"),
        (download_message(), {"filename": "a\r\nb"}, "filename_invalid", "items[0].filename"),
        (PLAIN, {"filename": "b"}, "override_not_allowed", "items[0].filename"),
        (download_message(), {"version_id": ""}, "version_invalid", "items[0].version_id"),
        (download_message(), {"version_id": "a&b"}, "version_invalid", "items[0].version_id"),
        (upload_message(min_size=9), {"size": 8}, "size_invalid", "items[0].size"),
        (upload_message(), {"size": 500_001}, "size_too_large", "items[0].size"),
        (PUT, {"size": 101}, "size_too_large", "items[0].size"),
        (PUT, {"size": None}, "size_required", "items[0].size"),
        (MULTIPART, {"size": None}, "size_required", "items[0].size"),
        (PARTS, {"part": None}, "part_invalid", "items[0].part"),
    ],
)
def test_an_item_with_a_wrong_field_or_without_a_required_one_is_refused_for_that_field(
    raw: dict[str, Any], item: dict[str, Any], code: str, field: str
) -> None:
    assert refusal_code_and_field(raw, **item) == (code, field)


@pytest.mark.parametrize(
    "checksum",
    [
        {"algorithm": "sha256", "value": CRC32},
        {"algorithm": "sha256", "value": ""},
        {"algorithm": "crc32", "value": "AAAAAB=="},
    ],
)
def test_a_checksum_of_another_length_or_in_another_encoding_is_refused(
    checksum: dict[str, str],
) -> None:
    refused = ("checksum_invalid", "items[0].checksum")
    assert refusal_code_and_field(PUT, checksum=checksum) == refused


FREE_NAME = "acme/${filename}"
FREE_NAMES = replace(POLICY, free_names=True)


RESERVED = ("key_reserved", "items[0].key")


@pytest.mark.parametrize(
    ("raw", "policy", "key", "refused"),
    [
        (upload_message(), FREE_NAMES, FREE_NAME, None),
        (upload_message(), POLICY, FREE_NAME, RESERVED),
        (download_message(), FREE_NAMES, FREE_NAME, RESERVED),
        (upload_message(), FREE_NAMES, "acme/a${filename}", RESERVED),
        (upload_message(), FREE_NAMES, "acme/${filename}/b", RESERVED),
        (upload_message(), FREE_NAMES, "${filename}", RESERVED),
    ],
)
def test_a_filename_variable_may_only_be_the_last_segment_of_a_form_with_free_names(
    raw: dict[str, Any], policy: Policy, key: str, refused: tuple[str, str] | None
) -> None:
    assert refusal_code_and_field(raw, policy, key=key) == refused
