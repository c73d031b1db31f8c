"""Presigned forms are byte-equal to boto3's, and AWS's example has the documented signature."""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders.boto import (
    LONG_TERM,
    FrozenBoto,
    frozen_botos,
    object_keys,
    texts,
)
from worker.core.signing.forms import Condition, FormSigner
from worker.core.signing.sigv4 import SigningScope, Target

FIELD_NAMES = (
    "acl",
    "Content-Type",
    "success_action_status",
    "tagging",
    "x-amz-checksum-sha256",
    "x-amz-meta-é",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
)
form_fields = st.dictionaries(st.sampled_from(FIELD_NAMES), texts)


def form_signer(boto: FrozenBoto, **common: Any) -> FormSigner:
    return FormSigner(
        boto.credentials,
        boto.target,
        bucket=boto.bucket.bucket,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        **common,
    )


def test_the_policy_of_awss_example_has_the_documented_signature() -> None:
    # AWS: sigv4-post-example.html; the lines of the document end in CR LF
    document = """{ "expiration": "2015-12-30T12:00:00.000Z",
  "conditions": [
    {"bucket": "sigv4examplebucket"},
    ["starts-with", "$key", "user/user1/"],
    {"acl": "public-read"},
    {"success_action_redirect": "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html"},
    ["starts-with", "$Content-Type", "image/"],
    {"x-amz-meta-uuid": "14365123651274"},
    {"x-amz-server-side-encryption": "AES256"},
    ["starts-with", "$x-amz-meta-tag", ""],

    {"x-amz-credential": "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"},
    {"x-amz-algorithm": "AWS4-HMAC-SHA256"},
    {"x-amz-date": "20151229T000000Z" }
  ]
}""".replace("\n", "\r\n")
    target = Target("https", "sigv4examplebucket.s3.amazonaws.com", "/", "us-east-1")
    mac = SigningScope(LONG_TERM, target, datetime(2015, 12, 29, tzinfo=UTC)).policy_hmac()
    assert mac.hexdigest(b64encode(document.encode()).decode()) == (
        "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"
    )


@given(
    boto=frozen_botos,
    key=object_keys,
    fields=form_fields,
    item_fields=form_fields,
    min_size=st.integers(0, 2**40),
)
@example(
    boto=FrozenBoto(),
    key='"\\é\u2028😀\x00',
    fields={},
    item_fields={"acl": '"\\é\u2028😀'},
    min_size=0,
)
@example(boto=FrozenBoto(), key="inbox/${filename}", fields={}, item_fields={}, min_size=0)
def test_a_form_equals_boto3s_for_any_key_fields_bucket_credentials_and_time(
    boto: FrozenBoto, key: str, fields: dict[str, str], item_fields: dict[str, str], min_size: int
) -> None:
    conditions: list[Condition] = [
        ["content-length-range", min_size, min_size + 1],
        ["starts-with", "$Cache-Control", "max-age="],
    ]
    form = form_signer(boto, fields=fields, conditions=conditions).sign(key, item_fields)
    all_fields = fields | item_fields
    expected = boto.form(
        key, all_fields, [*conditions, *({name: value} for name, value in all_fields.items())]
    )
    assert (form.url, form.fields) == (expected["url"], expected["fields"])
    assert list(form.fields) == list(expected["fields"])


def test_fields_that_only_some_items_of_a_batch_have_do_not_mix() -> None:
    forms = form_signer(FrozenBoto(), fields={"acl": "private"})
    for item_fields in ({}, {"tagging": "a"}, {"acl": "b"}, {"acl": "c", "tagging": "d"}, {}):
        alone = form_signer(FrozenBoto(), fields={"acl": "private"})
        assert forms.sign("k", item_fields) == alone.sign("k", item_fields)


def test_changing_the_fields_of_a_form_changes_no_other() -> None:
    forms = form_signer(FrozenBoto(), fields={"acl": "private"})
    forms.sign("k").fields["acl"] = "public-read"
    assert forms.sign("k").fields["acl"] == "private"


def test_the_repr_of_a_form_has_neither_signature_nor_policy() -> None:
    form = form_signer(FrozenBoto()).sign("k")
    assert form.signature not in repr(form)
    assert form.fields["policy"] not in repr(form)
