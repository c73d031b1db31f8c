"""Attacks that succeeded on other systems: the service signs nothing that they could use."""

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.test_upload import FILE
from tests.support.s3.http_requests import post, send
from tests.support.s3.stores import DOWNLOAD, MULTIPART, PUT, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant

KINDS = pytest.mark.parametrize(
    "terms", [DOWNLOAD, UPLOAD, PUT, MULTIPART], ids=lambda terms: terms["kind"]
)


def policy_conditions(grant: Grant) -> list[Any]:
    """Return the conditions of a form's policy."""
    conditions: list[Any] = json.loads(b64decode(grant.fields["policy"]))["conditions"]
    return conditions


# 2: HackerOne 93691; 4: CVE-2026-42196, CVE-2022-24840
@KINDS
@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("other/a.png", "key_outside_prefix"),
        ("acme/../other/a.png", "key_traversal"),
        ("acme//a.png", "key_empty_segment"),
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
