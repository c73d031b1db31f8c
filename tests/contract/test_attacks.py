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
from tests.support.s3.stores import DOWNLOAD, MULTIPART, PUT, UPLOAD, Store, new_key
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


# 2: HackerOne 93691; 4: CVE-2026-42196, CVE-2022-24840
@KINDS
@pytest.mark.parametrize(
    ("key", "code"),
    [
        *((key, "key_outside_prefix") for key in ("a.png", "other/a.png", "acm/a.png", "Acme/a")),
        ("acme", "key_outside_prefix"),
        ("acme/../other/a.png", "key_traversal"),
        ("acme/./a.png", "key_traversal"),
        ("acme/..", "key_traversal"),
        ("acme/%2e%2e/other/a.png", "key_traversal"),
        ("acme/%252e%252e%252fother/a.png", "key_traversal"),
        ("/acme/a.png", "key_empty_segment"),
        ("acme//a.png", "key_empty_segment"),
        ("acme/%2fetc/passwd", "key_empty_segment"),
        ("acme/..\\other\\a.png", "key_backslash"),
    ],
)
def test_no_key_leads_out_of_its_place(
    signing_store: Store, terms: Mapping[str, Any], key: str, code: str
) -> None:
    assert signing_store.refusal_code(key, **terms) == code


def test_each_condition_of_a_form_is_enforced(store: Store) -> None:
    grant = store.upload(new_key())
    exact = [name for each in policy_conditions(grant) if isinstance(each, dict) for name in each]
    assert set(grant.fields) - set(exact) == {"policy", "x-amz-signature"}
    for name in set(grant.fields) & set(exact):
        changed = replace(grant, fields={**grant.fields, name: "acme/changed"})
        assert not send(post(changed, FILE)).is_success, name
    assert send(post(grant, FILE)).is_success


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


# 18: a bucket of the same name in another account
def test_a_bucket_of_the_right_account_is_used(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    grant = store.download(key, check_owner=True)
    assert send(Request("GET", grant.url, grant.headers)).body == SECRET
