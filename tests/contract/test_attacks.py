"""Attacks that succeeded on other systems: the service signs nothing that they could use."""

import json
import logging
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.contract.test_upload import FILE
from tests.support.s3.http_requests import Request, get, post, send
from tests.support.s3.misuses import SECRET
from tests.support.s3.stores import DOWNLOAD, MULTIPART, PUT, TENANTS, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant

KINDS = pytest.mark.parametrize(
    "terms", [DOWNLOAD, UPLOAD, PUT, MULTIPART], ids=lambda terms: terms["kind"]
)


def policy_conditions(grant: Grant) -> list[Any]:
    """Return the conditions of a form's policy."""
    conditions: list[Any] = json.loads(b64decode(grant.fields["policy"]))["conditions"]
    return conditions


# 1: HackerOne 764243
def test_no_form_lets_its_sender_write_anywhere(signing_store: Store) -> None:
    key = new_key()
    key_conditions = [
        each
        for each in policy_conditions(signing_store.upload(key))
        if "key" in each or "$key" in each
    ]
    assert key_conditions == [{"key": key}]
    assert signing_store.refusal_code("acme/${filename}", **UPLOAD) == "key_reserved"


# 2: HackerOne 93691
@KINDS
@pytest.mark.parametrize("key", ["a.png", "other/a.png", "acm/a.png", "acme", "Acme/a.png"])
def test_no_key_above_the_prefix_of_the_tenant_is_signed(
    signing_store: Store, terms: Mapping[str, Any], key: str
) -> None:
    assert signing_store.refusal_code(key, **terms) == "key_outside_prefix"


# 3: HackerOne 94087
@KINDS
def test_no_tenant_reaches_the_keys_of_another(
    signing_store: Store, terms: Mapping[str, Any]
) -> None:
    reachable = {
        (tenant, owner)
        for tenant in TENANTS
        for owner in TENANTS
        if signing_store.refusal_code(f"{owner}/a.png", tenant=tenant, **terms) is None
    }
    assert reachable == {(tenant, tenant) for tenant in TENANTS}


# 4: CVE-2026-42196, CVE-2022-24840
@KINDS
@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("acme/../other/a.png", "key_traversal"),
        ("acme/./a.png", "key_traversal"),
        ("acme/..", "key_traversal"),
        ("acme/%2e%2e/other/a.png", "key_traversal"),
        ("acme/%252e%252e%252fother/a.png", "key_traversal"),
        ("/acme/a.png", "key_empty_segment"),
        ("acme//a.png", "key_empty_segment"),
        ("acme/%2fetc/passwd", "key_empty_segment"),
    ],
)
def test_no_key_leads_out_of_its_place(
    signing_store: Store, terms: Mapping[str, Any], key: str, code: str
) -> None:
    assert signing_store.refusal_code(key, **terms) == code


# 8: CVE-2026-33173
@pytest.mark.parametrize("name", ["grant-id", "x-amz-acl", "X-Amz-Meta-A", "content-type:", "a b"])
def test_no_metadata_passes_for_something_else(signing_store: Store, name: str) -> None:
    assert (
        signing_store.refusal_code(**{**UPLOAD, "metadata": {name: "text/html"}})
        == "metadata_invalid"
    )


# 10: CVE-2023-28434, CVE-2023-28433
@pytest.mark.parametrize(
    ("bucket", "code"),
    [
        ("minio", "bucket_not_allowed"),
        ("contract", "bucket_not_allowed"),  # the name of the real bucket
        (".minio.sys", "malformed"),
        ("../contract-other", "malformed"),
        ("arn:aws:s3:::contract", "malformed"),
    ],
)
def test_no_real_bucket_name_is_accepted(signing_store: Store, bucket: str, code: str) -> None:
    assert signing_store.refusal_code(bucket=bucket) == code


@KINDS
def test_no_key_holds_a_backslash(signing_store: Store, terms: Mapping[str, Any]) -> None:
    assert signing_store.refusal_code("acme/..\\other\\a.png", **terms) == "key_backslash"


# 11: CVE-2026-27607
def test_no_form_is_issued_for_a_bucket_without_support_for_forms(signing_store: Store) -> None:
    item = {"key": "acme/a.png", "size": 20}
    outcome = signing_store.issue(
        item, **{**UPLOAD, "bucket": "formless", "content_type": "image/png"}
    )
    (grant,) = (Grant(**item) for item in outcome["items"])
    assert (grant.method, grant.fields) == ("PUT", {})
    assert grant.headers["content-length"] == "20"


def test_each_condition_of_a_form_is_enforced(store: Store) -> None:
    grant = store.upload(new_key())
    exact = [name for each in policy_conditions(grant) if isinstance(each, dict) for name in each]
    assert set(grant.fields) - set(exact) == {"policy", "x-amz-signature"}
    for name in set(grant.fields) & set(exact):
        changed = replace(grant, fields={**grant.fields, name: "acme/changed"})
        assert not send(post(changed, FILE)).is_success, name
    assert send(post(grant, FILE)).is_success


# 12: boto3 issue 3791
def test_every_url_is_signed_by_version_4(signing_store: Store) -> None:
    query = parse_qs(urlsplit(signing_store.download(new_key()).url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert not {"AWSAccessKeyId", "Signature", "Expires"} & set(query)


def test_every_put_signs_its_restrictions(signing_store: Store) -> None:
    query = parse_qs(urlsplit(signing_store.put(new_key(), 20, overwrite=False).url).query)
    (signed_headers,) = query["X-Amz-SignedHeaders"]
    assert {"content-length", "content-type", "if-none-match"} < set(signed_headers.split(";"))


def test_every_form_is_signed_by_version_4(signing_store: Store) -> None:
    fields = signing_store.upload(new_key()).fields
    assert fields["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert not {"AWSAccessKeyId", "signature"} & set(fields)


# 13: stored cross-site scripting by a picture
@KINDS
@pytest.mark.parametrize("kind", ["image/svg+xml", "text/html", "application/xhtml+xml"])
def test_nothing_that_a_browser_runs_passes_for_a_picture(
    signing_store: Store, terms: Mapping[str, Any], kind: str
) -> None:
    assert (
        signing_store.refusal_code(**{**terms, "content_type": kind}) == "content_type_not_allowed"
    )


def test_what_a_browser_would_run_is_saved_instead(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"<script>alert(1)</script>", ContentType="text/html")
    headers = send(get(store.download(key).url)).headers
    assert headers["content-disposition"] == "attachment"
    assert headers["content-type"] == "application/octet-stream"


# 15: GitLab issue 350118
def test_no_grant_outlives_the_credentials_that_signed_it(signing_store: Store) -> None:
    key = new_key()
    signing_store.put_object(key, SECRET)
    grant = signing_store.download(key, bucket="short-lived", expires_in=3_600)
    (seconds,) = parse_qs(urlsplit(grant.url).query)["X-Amz-Expires"]
    assert (grant.limited_by, 700 < int(seconds) <= 720) == ("credentials", True)
    assert send(get(grant.url)).body == SECRET


def test_no_grant_is_given_that_would_end_too_soon(signing_store: Store) -> None:
    terms: dict[str, Any] = {"bucket": "short-lived", "expires_in": 3_600, "min_expires_in": 1_800}
    assert signing_store.refusal_code(**terms) == "expiry_too_short"


# 16: public archives of URLs
def test_no_signature_is_left_behind(
    signing_store: Store, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        grants = [signing_store.download(new_key()), signing_store.upload(new_key())]
    output = repr(grants) + caplog.text
    output += "".join(path.read_bytes().decode("latin-1") for path in folder.glob("valetkey.db*"))
    signatures = [grants[0].url.rpartition("=")[2], grants[1].fields["x-amz-signature"]]
    assert grants[0].key in output
    assert not [each for each in signatures if each in output]


# 17: CVE-2026-19585
@pytest.mark.parametrize("name", ["../../.ssh/config", "a/b", "C:\\a", "a\\..\\b", "a\nb", ""])
def test_no_name_for_a_download_is_a_path(signing_store: Store, name: str) -> None:
    assert (
        signing_store.issue({"key": "acme/a", "filename": name})["items"][0]["code"]
        == "filename_invalid"
    )


# 18: a bucket of the same name in another account
def test_a_bucket_of_the_right_account_is_used(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    grant = store.download(key, check_owner=True)
    assert send(Request("GET", grant.url, grant.headers)).body == SECRET


# 19: unlimited use of one grant
def test_no_grant_is_longer_or_larger_than_policy_says(signing_store: Store) -> None:
    assert signing_store.refusal_code(expires_in=86_401) == "expiry_too_long"
    assert signing_store.refusal_code(expires_in=604_801) == "expiry_invalid"
    assert signing_store.refusal_code(**{**UPLOAD, "max_size": 6_000_001}) == "size_too_large"
    assert signing_store.refusal_code(kind="upload") == "size_required"
