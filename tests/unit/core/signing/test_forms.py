"""Presigned forms are boto3's to the byte, and AWS's own example comes out."""

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.builders.boto import LONG_TERM, PLACES, SESSION, Boto, botos, keys, texts
from worker.core.signing.forms import Condition, FormSigner, SignedForm
from worker.core.signing.sigv4 import SigningScope, Target

NAMES = (
    "acl",
    "Content-Type",
    "success_action_status",
    "tagging",
    "x-amz-checksum-sha256",
    "x-amz-meta-é",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
)
SIZE: Condition = ["content-length-range", 1_000, 500_000]
fields = st.dictionaries(st.sampled_from(NAMES), texts)


def signer(boto: Boto, **common: Any) -> FormSigner:
    return FormSigner(
        boto.credentials,
        boto.target,
        bucket=boto.place.bucket,
        issued_at=boto.issued_at,
        expires_in=boto.expires_in,
        **common,
    )


def policy(form: SignedForm) -> Any:
    return json.loads(b64decode(form.fields["policy"]))


def test_the_policy_example_of_aws_has_its_signature() -> None:
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
    mac = SigningScope(LONG_TERM, target, datetime(2015, 12, 29, tzinfo=UTC)).of_policies()
    assert mac.hexdigest(b64encode(document.encode()).decode()) == (
        "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"
    )


@settings(max_examples=1_000)
@given(boto=botos, key=keys, fields=fields, own=fields, least=st.integers(0, 2**40))
@example(boto=Boto(), key='"\\é\u2028😀\x00', fields={}, own={"acl": '"\\é\u2028😀'}, least=0)
@example(boto=Boto(), key="inbox/${filename}", fields={}, own={}, least=0)
def test_a_form_is_boto3s_for_any_key_fields_place_credentials_and_second(
    boto: Boto, key: str, fields: dict[str, str], own: dict[str, str], least: int
) -> None:
    given: list[Condition] = [
        ["content-length-range", least, least + 1],
        ["starts-with", "$Cache-Control", "max-age="],
    ]
    form = signer(boto, fields=fields, conditions=given).sign(key, own)
    sent = fields | own
    expected = boto.form(key, sent, [*given, *({name: sent[name]} for name in sent)])
    assert (form.url, form.fields) == (expected["url"], expected["fields"])
    assert list(form.fields) == list(expected["fields"])


def test_five_thousand_forms_of_one_batch_are_boto3s() -> None:
    boto = Boto(credentials=SESSION)
    forms = signer(boto, conditions=[SIZE])
    for number in range(5_000):
        own = {"x-amz-meta-grant-id": f"b-{number}"}
        expected = boto.form(f"é/{number}", own, [SIZE, own])
        assert forms.sign(f"é/{number}", own).fields == expected["fields"]


def test_every_field_of_a_form_has_an_exact_condition() -> None:
    forms = signer(Boto(), fields={"acl": "public-read"}, conditions=[SIZE])
    form = forms.sign("a.txt", {"x-amz-meta-grant-id": "b-1"})
    unsigned = {"policy", "x-amz-signature"}
    conditions = policy(form)["conditions"]
    assert SIZE in conditions
    assert all({n: v} in conditions for n, v in form.fields.items() if n not in unsigned)


def test_an_items_own_field_replaces_the_batchs_and_its_condition() -> None:
    form = signer(Boto(), fields={"acl": "public-read"}).sign("k", {"acl": "private"})
    assert form.fields["acl"] == "private"
    assert [c for c in policy(form)["conditions"] if "acl" in c] == [{"acl": "private"}]


def test_the_policy_ends_when_the_grant_does() -> None:
    boto = Boto(issued_at=datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC), expires_in=1)
    assert policy(signer(boto).sign("k"))["expiration"] == "2025-01-01T00:00:00Z"


def test_a_form_goes_to_the_bucket_not_to_the_key() -> None:
    urls = [signer(Boto(place=place)).sign("k").url for place in (PLACES[0], PLACES[3])]
    assert urls == [
        "https://reports.s3.eu-west-1.amazonaws.com/",
        "https://s3.amazonaws.com/reports",
    ]


def test_a_forms_fields_do_not_print() -> None:
    form = signer(Boto()).sign("k")
    assert form.signature not in repr(form)
    assert form.fields["policy"] not in repr(form)
