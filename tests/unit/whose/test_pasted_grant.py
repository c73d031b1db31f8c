"""What people paste: links from mails, pages, terminals and logs, forms, JSON, metadata."""

import json
from datetime import UTC, datetime

import pytest

from valetkey.signing.sigv4 import signature_digest
from worker.shared.grant_names import GrantName
from worker.whose.link_verdicts import MAX_PASTED_BYTES, Unreadable, read_pasted_grant

BATCH = "0199a000-0000-7000-8000-000000000000"
ID = f"{BATCH}.7"
NAME = GrantName(BATCH, 7)
SIGNATURE = "0123456789abcdef" * 4
URL = (
    "https://reports.s3.amazonaws.com/acme/a%20b.pdf?response-content-type=text%2Fplain"
    f"&x-grant-id={ID}&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIDEXAMPLE%2F20261124%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20261124T123000Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host"
    f"&X-Amz-Signature={SIGNATURE}"
)
FIELDS = {
    "Content-Type": "image/png",
    "x-amz-meta-grant-id": ID,
    "key": "acme/a b.png",
    "x-amz-credential": "AKIDEXAMPLE/20261124/us-east-1/s3/aws4_request",
    "x-amz-date": "20261124T123000Z",
    "policy": "eyJleHBpcmF0aW9uIjogIngifQ==",
    "x-amz-signature": SIGNATURE,
}
INPUTS = "".join(f'<input type=hidden name="{k}" value="{v}">' for k, v in FIELDS.items())
LINKS = {
    "in angle brackets": f"<{URL}>",
    "in parentheses": f"({URL}).",
    "in upper case": URL.replace("X-Amz", "X-AMZ").replace("x-grant", "X-Grant"),
    "in curl": f"curl -o a.pdf '{URL}'",
    "in JSON": json.dumps({"id": ID, "key": "acme/a b.pdf", "method": "GET", "url": URL}),
    "in a line of JSON": f"{json.dumps({'id': ID, 'url': URL})}\n\n",
    "with a byte order mark": f"\ufeff{URL}",
}
FORMS = {
    "JSON": json.dumps({"id": ID, "url": "https://reports.s3.amazonaws.com/", "fields": FIELDS}),
    "HTML": f"<form action='https://reports.s3.amazonaws.com/'>{INPUTS}<input type=file></form>",
    "HTML in upper case": INPUTS.replace("<input", "<INPUT").replace("name=", "NAME="),
    "lines with =": "\n".join(f"{name}={value}" for name, value in FIELDS.items()),
    "lines with :": "\r\n".join(f"{name}: {value}" for name, value in FIELDS.items()),
    "curl": " ".join(f"-F '{name}={value}'" for name, value in FIELDS.items()),
}
METADATA = {
    "a header": f"x-amz-meta-grant-id: {ID}",
    "a header of curl -I": f'HTTP/1.1 200 OK\r\nETag: "a"\r\nX-Amz-Meta-Grant-Id: {ID}\r\n\r\n',
    "head-object": json.dumps({"ContentLength": 3, "Metadata": {"grant-id": ID}}, indent=4),
    "an id": ID,
    "an id with a full stop": f"{ID}.",
    "an id in upper case": ID.upper(),
}


@pytest.mark.parametrize("text", LINKS.values(), ids=LINKS)
def test_a_link_is_read_however_it_was_pasted(text: str) -> None:
    (pasted,) = read_pasted_grant(text)
    assert (pasted.name, pasted.digests) == (NAME, frozenset({signature_digest(SIGNATURE)}))
    assert pasted.dates == {datetime(2026, 11, 24, 12, 30, tzinfo=UTC)}
    found = (pasted.lifetimes, pasted.access_keys, pasted.hosts, pasted.paths)
    expected = ("300", "AKIDEXAMPLE", "reports.s3.amazonaws.com", "acme/a b.pdf")
    assert found == tuple(frozenset({value}) for value in expected)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_form_is_read_however_it_was_pasted(text: str) -> None:
    (pasted,) = read_pasted_grant(text)
    assert (pasted.name, pasted.digests) == (NAME, frozenset({signature_digest(SIGNATURE)}))
    assert pasted.dates == {datetime(2026, 11, 24, 12, 30, tzinfo=UTC)}


@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA)
def test_metadata_and_ids_name_a_grant_without_proof(text: str) -> None:
    (pasted,) = read_pasted_grant(text)
    assert (pasted.name, pasted.digests) == (NAME, frozenset())


def test_an_id_can_name_its_tenant() -> None:
    assert read_pasted_grant(f"acme~2/{ID}")[0].name == GrantName(BATCH, 7, "acme~2")


@pytest.mark.parametrize(
    "text",
    ["", " ", "hello", "{}", "[]", "null", BATCH, f"{BATCH}.", "x" * 60_000, "[" * 5_000, "\0",
     "https", f"{ID}\n{BATCH}.8", json.dumps([{"id": ID}, {"id": f"{BATCH}.8"}])],
)  # fmt: skip
def test_what_names_no_grant_or_several_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read_pasted_grant(text)


@pytest.mark.parametrize("text", ["https://example.com/a", "http://[::1/a", "https://example.com"])
def test_a_url_without_signature_names_nothing(text: str) -> None:
    try:
        (pasted,) = read_pasted_grant(text)
    except Unreadable:
        return
    assert (pasted.name, pasted.digests) == (None, frozenset())


def test_the_key_of_a_link_is_not_taken_for_a_grant_id() -> None:
    assert read_pasted_grant(f"https://example.com/{ID}")[0].name is None


def test_no_part_of_a_link_is_printed() -> None:
    (pasted,) = read_pasted_grant(URL)
    assert SIGNATURE not in repr(pasted)
    assert "https" not in repr(pasted)


@pytest.mark.parametrize(
    "text", [f"http://[?x-amz-signature={SIGNATURE}", '{"a": ' * 900 + '"' + SIGNATURE + '"']
)
def test_an_error_repeats_nothing_of_the_text(text: str) -> None:
    with pytest.raises(Unreadable) as failure:
        read_pasted_grant(text)
    chain = [failure.value, failure.value.__cause__]
    assert not [error for error in chain if SIGNATURE in str(error)]


LONG = MAX_PASTED_BYTES - 10


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        "x" + "\n" * LONG + "x",
        "x" + " " * LONG + "x",
        "~" * LONG,
        "key=" + '"' * LONG + "x",
        "x-amz-signature" + " " * LONG,
    ],
    ids=["lines", "spaces", "tildes", "quotes", "spaces after a name"],
)
def test_a_hostile_text_is_read_in_time_proportional_to_its_length(text: str) -> None:
    with pytest.raises(Unreadable):
        read_pasted_grant(text)
