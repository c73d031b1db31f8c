import base64
from typing import Any

import pytest

from tests.support.builders.messages import (
    POLICY,
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from worker.core.policy import items
from worker.core.tenants.config import Policy

SHA256 = base64.b64encode(bytes(32)).decode()
CRC32 = base64.b64encode(bytes(4)).decode()


def refusal_code_and_field(
    raw: dict[str, Any], policy: Policy = POLICY, **fields: Any
) -> tuple[str, str] | None:
    raw = raw | {"items": [{**raw["items"][0], **fields}]}
    message = ChunkMessage.model_validate(raw)
    refusal = items.item_refusal(message.items[0], message.grant, policy, "items[0]")
    return None if refusal is None else (str(refusal.code), refusal.field)


PUT = put_message({"acme/a.png": 30}, max_size=100)
MULTIPART = grant_message(
    grant={"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 2**30}
)
PARTS = grant_message(grant={"kind": "parts", "bucket": "demo", "expires_in": 60, "of": "b.0"})


@pytest.mark.parametrize(
    ("raw", "item"),
    [
        (
            download_message(),
            {"filename": "a.pdf", "version_id": "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY-_x"},
        ),
        (upload_message(), {"checksum": {"algorithm": "sha256", "value": SHA256}}),
        (upload_message(), {"size": 500_000}),
        (PUT, {"checksum": {"algorithm": "crc32c", "value": CRC32}}),
        (PUT, {"size": 0}),
        (MULTIPART, {"size": 2**30}),
        (PARTS, {"part": 10_000}),
    ],
)
def test_an_item_may_have_the_fields_of_its_kind(raw: dict[str, Any], item: dict[str, Any]) -> None:
    assert refusal_code_and_field(raw, **item) is None


@pytest.mark.parametrize(
    ("raw", "item", "code", "field"),
    [
        (download_message(), {"size": 1}, "unknown_field", "items[0].size"),
        (download_message(), {"part": 1}, "unknown_field", "items[0].part"),
        (upload_message(), {"filename": "a"}, "unknown_field", "items[0].filename"),
        (PUT, {"version_id": "a"}, "unknown_field", "items[0].version_id"),
        (download_message(), {"filename": "a\r\nb"}, "filename_invalid", "items[0].filename"),
        (download_message(), {"version_id": ""}, "version_invalid", "items[0].version_id"),
        (download_message(), {"version_id": "a&b"}, "version_invalid", "items[0].version_id"),
        (upload_message(min_size=9), {"size": 8}, "size_invalid", "items[0].size"),
        (upload_message(), {"size": 500_001}, "size_too_large", "items[0].size"),
        (PUT, {"size": 101}, "size_too_large", "items[0].size"),
        (PUT, {"size": None}, "size_required", "items[0].size"),
        (MULTIPART, {}, "size_required", "items[0].size"),
        (PARTS, {}, "part_invalid", "items[0].part"),
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
        {"algorithm": "crc32", "value": SHA256},
        {"algorithm": "sha256", "value": ""},
        {"algorithm": "sha256", "value": "not base64"},
        {"algorithm": "crc32", "value": "AAAAAB=="},
    ],
)
def test_a_checksum_of_another_length_or_in_another_encoding_is_refused(
    checksum: dict[str, str],
) -> None:
    assert refusal_code_and_field(PUT, checksum=checksum) == (
        "checksum_invalid",
        "items[0].checksum",
    )


def test_an_item_of_plain_links_has_no_file_name_of_its_own() -> None:
    message = download_message(plain=True)
    assert refusal_code_and_field(message, filename="b.pdf") == (
        "override_not_allowed",
        "items[0].filename",
    )
    assert refusal_code_and_field(message, version_id="v") is None


def test_a_filename_variable_needs_a_policy_with_free_names() -> None:
    policy = Policy("demo", ("acme/",), ("upload",), free_names=True)
    assert refusal_code_and_field(upload_message(), key="acme/${filename}") == (
        "key_reserved",
        "items[0].key",
    )
    assert refusal_code_and_field(upload_message(), policy, key="acme/${filename}") is None


@pytest.mark.parametrize("key", ["acme/a${filename}", "acme/${filename}/b", "${filename}"])
def test_a_filename_variable_is_only_allowed_as_the_last_segment_under_a_prefix(key: str) -> None:
    policy = Policy("demo", ("acme/",), ("upload",), free_names=True)
    assert refusal_code_and_field(upload_message(), policy, key=key) is not None


def test_a_download_may_not_have_a_filename_variable() -> None:
    policy = Policy("demo", ("acme/",), ("download",), free_names=True)
    assert refusal_code_and_field(download_message(), policy, key="acme/${filename}") == (
        "key_reserved",
        "items[0].key",
    )
