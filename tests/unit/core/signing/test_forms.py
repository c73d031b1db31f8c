"""Presigned forms are byte-equal to boto3's, and AWS's example has the documented signature."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders.boto import (
    FrozenBoto,
    frozen_botos,
    object_keys,
    texts,
)
from worker.core.sigv4 import Condition, FormSigner

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
