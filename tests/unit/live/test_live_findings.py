import pytest

from valetkey.signing.sigv4 import Target
from worker.live import live_trial
from worker.live.live_trial import Leftovers, describe_answer, judge_misuse, judge_use
from worker.shared.storage_requests import StorageRequest, StorageResponse

URL = "https://s3.test/bucket/a%20b.txt?X-Amz-Expires=300&x-grant-id=1.0&X-Amz-Signature=abc0"
TARGET = Target("https", "s3.test", "/bucket/", "us-east-1")


def error(status: int, code: str, message: str = "") -> StorageResponse:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return StorageResponse(status, {}, body.encode())


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (StorageResponse(200), "ok"),
        (StorageResponse(204), "ok"),
        (error(200, "InternalError"), "error"),
        (error(403, "AccessDenied"), "error"),
        (error(501, "NotImplemented"), "not supported"),
        (StorageResponse(405), "not supported"),
        (error(400, "NotImplemented"), "not supported"),
        (StorageResponse(307), "error"),
    ],
)
def test_a_use_is_ok_only_if_it_succeeds(response: StorageResponse, verdict: str) -> None:
    assert judge_use(response)[0] == verdict


def test_a_use_with_a_wrong_result_is_an_error() -> None:
    assert judge_use(StorageResponse(200), "other bytes") == ("error", "other bytes")


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (error(403, "AccessDenied"), "ok"),
        (error(412, "PreconditionFailed"), "ok"),
        (StorageResponse(200), "not enforced"),
        (StorageResponse(501), "not supported"),
        (StorageResponse(500), "error"),
        (StorageResponse(503), "error"),
        (StorageResponse(302), "error"),
    ],
)
def test_a_misuse_is_refused_only_with_a_status_of_the_client(
    response: StorageResponse, verdict: str
) -> None:
    assert judge_misuse(response)[0] == verdict


def test_an_answer_is_the_status_and_a_code_of_letters_and_digits() -> None:
    assert describe_answer(error(403, "AccessDenied")) == "403 AccessDenied"
    assert describe_answer(error(403, "\x1b[2J")) == "403"
    assert describe_answer(StorageResponse(502, {}, b"<html>")) == "502"


def test_an_error_message_shows_no_url_and_no_signature() -> None:
    words = f"no access to {URL} because X-Amz-Signature=abc0 is wrong"
    message = error(403, "AccessDenied", words).message
    assert message.startswith("no access to")
    assert "abc0" not in message
    assert "s3.test" not in message


def test_parameters_are_removed_replaced_and_appended_without_decoding() -> None:
    assert live_trial.without_parameters(URL, "x-grant-id") == URL.replace("&x-grant-id=1.0", "")
    assert live_trial.without_parameters(URL, "X-Amz-*", "x-grant-id") == URL.partition("?")[0]
    assert live_trial.with_parameter(URL, "X-Amz-Expires", "9").endswith("&X-Amz-Expires=9")
    assert live_trial.with_parameter("https://a/b", "c", "d") == "https://a/b?c=d"


def test_a_changed_signature_differs_in_the_last_character() -> None:
    assert live_trial.with_changed_signature(URL) == URL.replace("abc0", "abc1")


def test_a_field_is_replaced_or_added_before_the_file() -> None:
    form: list[tuple[str, str | bytes]] = [("key", "a"), ("Acl", "b"), ("file", b"c")]
    assert live_trial.with_field(form, "acl", "d") == [("key", "a"), ("acl", "d"), ("file", b"c")]
    assert live_trial.with_field(form, "tag", "d")[-2:] == [("tag", "d"), ("file", b"c")]


def test_a_key_that_may_be_written_is_recorded_before_the_response() -> None:
    leftovers = Leftovers(TARGET)
    leftovers.add_request(StorageRequest("PUT", URL))
    form: list[tuple[str, str | bytes]] = [("key", "form.txt"), ("file", b"")]
    leftovers.add_request(StorageRequest("POST", "https://s3.test/bucket", form=form))
    leftovers.add_request(StorageRequest("GET", URL.replace("a%20b", "read")))
    assert leftovers.versions == {"a b.txt": set(), "form.txt": set()}


def test_a_key_is_forgotten_only_if_its_first_request_was_refused() -> None:
    leftovers = Leftovers(TARGET)
    first = leftovers.add_request(StorageRequest("PUT", URL))
    first(StorageResponse(200, {"x-amz-version-id": "v1"}))
    second = leftovers.add_request(StorageRequest("PUT", URL))
    second(StorageResponse(412))
    other = leftovers.add_request(StorageRequest("PUT", "https://s3.test/bucket/c"))
    other(StorageResponse(403))
    unclear = leftovers.add_request(StorageRequest("PUT", "https://s3.test/bucket/d"))
    unclear(StorageResponse(500))
    assert leftovers.versions == {"a b.txt": {"v1"}, "d": set()}


@pytest.mark.parametrize(
    "secret",
    ["0123456789abcdef" * 4, "FwoGZXIvYXdzEBYaDNhZ2Vyc2VjcmV0dG9rZW4=", "AKIAIOSFODNN7EXAMPLE"],
)
def test_words_of_storage_that_may_be_secrets_are_hidden(secret: str) -> None:
    body = f"<Error><Message>The token ({secret}) is wrong</Message></Error>"
    assert StorageResponse(403, {}, body.encode()).message == "The token ([hidden]) is wrong"
