"""Errors of storage: which are final, what they refuse, and what of their words is repeated."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.rules.storage_errors import MAX_WORDS, UNREADABLE, ErrorResponse, refuse_by_error

FINAL = [
    (404, "NoSuchBucket", "bucket_unusable", "grant.bucket", False),
    (403, "AccessDenied", "bucket_unusable", "grant.bucket", True),
    (403, "InvalidAccessKeyId", "bucket_unusable", "grant.bucket", False),
    (301, "PermanentRedirect", "bucket_unusable", "grant.bucket", False),
    (400, "AuthorizationHeaderMalformed", "bucket_unusable", "grant.bucket", False),
    (403, "403", "bucket_unusable", "grant.bucket", True),
    (404, "", "bucket_unusable", "grant.bucket", True),
    (400, "AccessControlListNotSupported", "acl_not_allowed", "grant.acl", False),
    (400, "InvalidStorageClass", "storage_class_not_allowed", "grant.storage_class", False),
    (400, "KMS.NotFoundException", "encryption_not_allowed", "grant.encryption", False),
    (400, "MetadataTooLarge", "metadata_invalid", "grant.metadata", False),
    (400, "KeyTooLongError", "key_too_long", "items[3].key", True),
    (400, "InvalidArgument", "storage_refused", "grant", True),
    (501, "NotImplemented", "storage_refused", "grant", False),
    (409, "InvalidBucketState", "storage_refused", "grant", True),
]
TRANSIENT = [
    (400, "SlowDown"),
    (400, "RequestTimeout"),
    (403, "RequestTimeTooSkewed"),
    (409, ""),
    (307, "TemporaryRedirect"),
    (400, "KMS.ThrottlingException"),
    (400, "ExpiredToken"),
]


@pytest.mark.parametrize(("status", "code", "refused_as", "field", "is_of_item"), FINAL)
def test_a_final_answer_is_refused_with_the_most_precise_code(
    status: int, code: str, refused_as: str, field: str, *, is_of_item: bool
) -> None:
    answer = ErrorResponse(status, code)
    refused = refuse_by_error(answer, "items[3]")
    assert not answer.is_transient
    assert (refused.refusal.code, refused.refusal.field) == (refused_as, field)
    assert refused.is_of_item == is_of_item


@pytest.mark.parametrize(("status", "code"), TRANSIENT)
def test_an_answer_that_a_retry_may_change_is_transient(status: int, code: str) -> None:
    assert ErrorResponse(status, code).is_transient


def test_an_answer_that_is_not_s3s_refuses_the_bucket() -> None:
    refused = refuse_by_error(UNREADABLE, "items[0]")
    assert not UNREADABLE.is_transient
    assert (refused.refusal.code, refused.is_of_item) == ("bucket_unusable", False)
    assert refused.refusal.message == "storage refused it: an answer that is not S3's"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_other_credentials_may_be_accepted(code: str) -> None:
    assert ErrorResponse(403, code).rejects_credentials


@pytest.mark.parametrize(
    "secret",
    [
        "https://valetkey.s3.amazonaws.com/acme/a?X-Amz-Signature=aa",
        "//storage.example/acme",
        "AKIAIOSFODNN7EXAMPLE",
        "TESTACCESSKEY",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        "FwoGZXIvYXdzE//////+token==",
        "arn:aws:sts::123456789012:assumed-role/valetkey/valetkey-acme",
        "123456789012",
        "eyJhbGciOiJFZERTQSJ9.e30.x",
        "uploadId=abc",
    ],
)
def test_the_words_contain_no_address_key_signature_token_or_account(secret: str) -> None:
    for message in (f"Denied to {secret}", f"({secret})", f"key={secret}", f'Denied "{secret}".'):
        assert secret not in ErrorResponse(403, "AccessDenied", message).words
    assert secret not in ErrorResponse(403, secret, "").words


def test_a_message_of_aws_stays_readable_without_its_arns() -> None:
    message = (
        "User: arn:aws:iam::111122223333:user/x is not authorized to perform: s3:PutObject on "
        'resource: "arn:aws:s3:::b/acme/a" because no session policy allows the s3:PutObject action'
    )
    assert ErrorResponse(403, "AccessDenied", message).words == (
        "AccessDenied: User: [removed] is not authorized to perform: [removed] on resource: "
        "[removed] because no session policy allows the [removed] action"
    )


@given(st.integers(200, 599), st.text(max_size=300), st.text(max_size=3_000))
def test_whatever_storage_answers_its_words_are_one_short_printable_line(
    status: int, code: str, message: str
) -> None:
    words = ErrorResponse(status, code, message).words
    assert 0 < len(words) <= MAX_WORDS
    assert words.isprintable()


def test_a_long_message_is_cut_off() -> None:
    words = ErrorResponse(403, "AccessDenied", "denied " * MAX_WORDS).words
    assert len(words) == MAX_WORDS
    assert words.endswith(" denie…")


def test_only_an_error_says_for_certain_that_nothing_was_done() -> None:
    assert ErrorResponse(403).is_answer_to_call
    assert not UNREADABLE.is_answer_to_call
    assert not ErrorResponse(301).is_answer_to_call


def test_a_huge_message_takes_no_time() -> None:
    message = "a- " * 2_000_000
    began_at = time.process_time()
    words = ErrorResponse(400, "InvalidArgument", message).words
    assert time.process_time() - began_at < 0.3
    assert words == "InvalidArgument: [removed]"
