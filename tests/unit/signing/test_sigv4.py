"""Presigned URLs and forms are byte-equal to boto3's, AWS's example has the documented signature.

The parts of a multipart upload, which each get a URL, add up to the file.
"""

import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.builders.boto import (
    LONG_TERM,
    SESSION,
    FrozenBoto,
    frozen_botos,
    object_keys,
    texts,
)
from valetkey.signing.signing_context import DEFAULT_PART_BYTES, plan_parts
from valetkey.signing.sigv4 import Condition, FormSigner, Target, UrlSigner
from valetkey.wire.terms import MAX_MULTIPART_BYTES, MAX_OBJECT_BYTES, MIN_PART_BYTES

QUERY_BY_PARAM = {
    "ResponseCacheControl": "response-cache-control",
    "ResponseContentDisposition": "response-content-disposition",
    "ResponseContentEncoding": "response-content-encoding",
    "ResponseContentLanguage": "response-content-language",
    "ResponseContentType": "response-content-type",
    "VersionId": "versionId",
}
HEADER_BY_PARAM = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentType": "Content-Type",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "Tagging": "x-amz-tagging",
}
header_values = st.text(
    string.ascii_letters + string.digits + " \t{}/;=%\"'+", min_size=1, max_size=40
)
many_examples = settings(max_examples=200)


def url_signer(boto: FrozenBoto, method: str, **common: Any) -> UrlSigner:
    validity = {"issued_at": boto.issued_at, "expires_in": boto.expires_in}
    return UrlSigner(boto.credentials, boto.target, method=method, **common | validity)


def test_the_get_of_awss_example_has_the_documented_url() -> None:
    # AWS: sigv4-query-string-auth.html, "An example of a presigned URL"
    signed = UrlSigner(
        LONG_TERM,
        Target("https", "examplebucket.s3.amazonaws.com", "/", "us-east-1"),
        method="GET",
        issued_at=datetime(2013, 5, 24, tzinfo=UTC),
        expires_in=86_400,
    ).sign("test.txt")
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    assert signed.signature == expected
    assert signed.url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        f"&X-Amz-Signature={expected}"
    )


@many_examples
@given(boto=frozen_botos, keys=st.lists(object_keys, min_size=1, max_size=3))
@example(boto=FrozenBoto(), keys=["a b+c~d/é/../%2e%2E//?#&=\x00\n\u202e😀"])
def test_the_gets_of_a_batch_equal_boto3s_for_any_keys_bucket_credentials_and_time(
    boto: FrozenBoto, keys: list[str]
) -> None:
    urls = url_signer(boto, "GET")
    expected = [boto.url("get_object", {"Key": key}) for key in keys]
    assert [urls.sign(key).url for key in keys] == expected


@many_examples
@given(
    boto=frozen_botos,
    key=object_keys,
    params=st.dictionaries(st.sampled_from([*QUERY_BY_PARAM]), texts),
    item_count=st.integers(0, 6),
    grant_id=texts,
)
def test_query_parameters_of_the_batch_and_the_item_are_signed_as_by_boto3(
    boto: FrozenBoto, key: str, params: dict[str, str], item_count: int, grant_id: str
) -> None:
    query = [(QUERY_BY_PARAM[name], value) for name, value in params.items()]
    urls = url_signer(boto, "GET", query=dict(query[item_count:]))
    signed = urls.sign(key, {"x-grant-id": grant_id, **dict(query[:item_count])})
    sorted_params = {name: params[name] for name in sorted(params)}
    assert signed.url == boto.url("get_object", {"Key": key, **sorted_params}, grant_id)


@given(boto=frozen_botos, key=object_keys, common=texts, grant_id=texts)
def test_with_item_parameter_signs_the_same_bytes_as_sign(
    boto: FrozenBoto, key: str, common: str, grant_id: str
) -> None:
    urls = url_signer(boto, "GET", query={"response-content-type": common})
    signed = urls.sign(key, {"x-grant-id": grant_id})
    assert urls.with_item_parameter("x-grant-id")(key, grant_id) == (signed.url, signed.signature)


@many_examples
@given(
    boto=frozen_botos,
    key=object_keys,
    headers=st.dictionaries(st.sampled_from([*HEADER_BY_PARAM]), header_values),
    size=st.integers(0, 2**40),
    item_count=st.integers(0, 6),
)
def test_headers_of_the_batch_and_the_item_are_signed_as_by_boto3(
    boto: FrozenBoto, key: str, headers: dict[str, str], size: int, item_count: int
) -> None:
    pairs = [(HEADER_BY_PARAM[name], value) for name, value in headers.items()]
    urls = url_signer(boto, "PUT", headers={**dict(pairs[item_count:]), "If-None-Match": "*"})
    signed = urls.sign(key, headers={"Content-Length": str(size), **dict(pairs[:item_count])})
    params = {"Key": key, "ContentLength": size, "IfNoneMatch": "*", **headers}
    assert signed.url == boto.url("put_object", params)


def test_a_parameter_of_an_item_replaces_the_batchs() -> None:
    batch, alone = (
        url_signer(FrozenBoto(), "GET", query={"versionId": id_, "response-content-type": "a/b"})
        for id_ in ("1", "2")
    )
    assert batch.sign("k", {"versionId": "2"}) == alone.sign("k")


def test_parameters_and_headers_of_the_same_name_do_not_mix() -> None:
    urls = url_signer(FrozenBoto(), "PUT")
    in_query, in_headers = urls.sign("k", {"x-a": "1"}), urls.sign("k", headers={"x-a": "1"})
    assert in_query != in_headers
    assert urls.sign("k", {"x-a": "1"}) == in_query


def test_the_time_zone_of_issued_at_does_not_matter() -> None:
    boto = FrozenBoto()
    east = FrozenBoto(issued_at=boto.issued_at.astimezone(timezone(timedelta(hours=9))))
    assert url_signer(east, "GET").sign("k") == url_signer(boto, "GET").sign("k")


def test_a_header_value_cannot_add_another_header() -> None:
    urls = url_signer(FrozenBoto(), "PUT")
    forged = urls.sign("k", headers={"x-amz-meta-a": "1\nx-amz-acl:public-read"})
    assert forged == urls.sign("k", headers={"x-amz-meta-a": "1 x-amz-acl:public-read"})


def test_a_header_with_nul_is_not_signed() -> None:
    with pytest.raises(ValueError, match="NUL"):
        url_signer(FrozenBoto(), "PUT", headers={"x-amz-meta-a": "\0"}).sign("k")


def test_the_reprs_have_no_secret() -> None:
    signed = url_signer(FrozenBoto(credentials=SESSION), "GET").sign("k")
    text = repr(signed) + repr(SESSION)
    assert signed.signature not in text
    assert SESSION.secret_key not in text
    assert str(SESSION.token) not in text


SIZES = st.integers(0, MAX_MULTIPART_BYTES)
PART_SIZES = st.none() | st.integers(MIN_PART_BYTES, MAX_OBJECT_BYTES)


@given(SIZES, PART_SIZES)
@example(5 * 1024**3 + 1, None)
@example(MAX_MULTIPART_BYTES, None)
def test_the_parts_add_up_to_the_file_and_stay_within_the_limits_of_s3(
    size: int, part_size: int | None
) -> None:
    plan = plan_parts(size, part_size)
    if plan is None:
        assert part_size is not None
        assert size > 10_000 * part_size
        return
    last = plan.part_count
    assert 1 <= last <= 10_000
    assert (last - 1) * plan.part_size + plan.part_length(last) == size
    assert last == 1 or plan.part_length(1) >= MIN_PART_BYTES
    assert last == 1 or plan.part_length(last) > 0


def test_a_file_of_100_mib_has_parts_of_the_default_size() -> None:
    plan = plan_parts(100 * 1024**2, None)
    assert plan is not None
    assert (plan.part_size, plan.part_count) == (DEFAULT_PART_BYTES, 7)


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
    common |= {"issued_at": boto.issued_at, "expires_in": boto.expires_in}
    return FormSigner(boto.credentials, boto.target, bucket=boto.bucket.bucket, **common)


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
    exact = [{name: value} for name, value in all_fields.items()]
    expected = boto.form(key, all_fields, [*conditions, *exact])
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
