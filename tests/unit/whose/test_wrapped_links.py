"""What mails, chats and link scanners make of a genuine link, and what forgers make of it."""

import json
import quopri
import re
from base64 import encodebytes, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from itertools import product
from random import Random
from time import process_time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valetkey.signing.sigv4 import Credentials, Target, UrlSigner, signature_digest
from worker.whose.link_decoding import MAX_TEXTS, decodings
from worker.whose.link_verdicts import (
    MAX_PASTED_BYTES,
    VERDICTS,
    AuditedGrant,
    Signing,
    Unreadable,
    judge,
    read_pasted_grant,
)

ISSUED_AT = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
ACCESS_KEY = "AKIDEXAMPLE"
TOKEN = urlsafe_b64encode(Random(7).randbytes(300)).decode()
NAME = "0199a000-0000-7000-8000-000000000000.12"
KEY = "acme/2026/a b=3D%ü.pdf"
VIRTUAL = Target("https", "reports.s3.eu-central-1.amazonaws.com", "/", "eu-central-1")


def sign(target: Target, known_host: str | None, token: str | None) -> tuple[str, AuditedGrant]:
    """Return a link that the service signs, and its grant in the audit log."""
    query = {"x-grant-id": NAME}
    signer = UrlSigner(
        *(Credentials(ACCESS_KEY, "secret", token), target),
        method="GET", issued_at=ISSUED_AT, expires_in=86_400, query=query,
    )  # fmt: skip
    url = signer.sign(KEY).url
    grant = AuditedGrant(
        tenant="acme", grant=NAME, bucket="reports", key=KEY, kind="download",
        requested_by="nightly", signed_by=None, issued_at=ISSUED_AT, expires_in=86_400,
        limited_by="request", code=None, is_plain=False,
        signings=(Signing(signature_digest(url[-64:]), ACCESS_KEY),),
        real_buckets=frozenset({"reports"}), hosts=frozenset({known_host}), provider="aws",
        has_role=False, upload=None, cancelled_at=None,
    )  # fmt: skip
    return url, grant


LINKS = {
    "virtual host": sign(VIRTUAL, None, None),
    "path style": sign(
        Target("http", "s3.example:9000", "/reports/", "x"), "s3.example:9000", TOKEN
    ),
}


def split(text: str, size: int, by: str) -> str:
    return by.join(text[i : i + size] for i in range(0, len(text), size))


def proofpoint_2(url: str) -> str:
    code = re.sub("[^A-Za-z0-9./]", lambda match: f"-{ord(match[0]):02X}", url)
    return f"https://urldefense.proofpoint.com/v2/url?u={code.replace('/', '_')}&d=DwMFaQ&c=a_-b&e="


def proofpoint_3(url: str) -> str:
    replaced: list[str] = []

    def replace(match: re.Match[str]) -> str:
        replaced.append(match[0])
        length = len(match[0])
        return "*" if length == 1 else "**" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[length - 2]

    link = re.sub("[%*_<>|\"'\\\\\\s]{1,27}", replace, url)
    code = urlsafe_b64encode("".join(replaced).encode()).decode().rstrip("=")
    return f"https://urldefense.com/v3/__{link}__;{code}!!ABC-x!4tZ_y$"


def escape_decimal(text: str) -> str:
    return "".join(char if char.isalnum() else f"&#{ord(char)};" for char in text)


def encode(text: str, times: int = 1) -> str:
    return text if times == 0 else encode(quote(text, safe=""), times - 1)


SAFE_LINKS = "https://eur01.safelinks.protection.outlook.com/?url={}&data=05%7C01%7C&reserved=0"
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "bare": str,
    "quoted-printable": lambda text: quopri.encodestring(text.encode()).decode(),
    "Proofpoint v2": proofpoint_2,
    "Proofpoint v3": proofpoint_3,
    "Safe Links": lambda text: SAFE_LINKS.format(encode(text)),
    "Google": lambda text: f"https://www.google.com/url?q={encode(text)}&sa=D&ust=17",
    "Slack": lambda text: f"<{text.replace('&', '&amp;')}|the report>",
    "Slack, bold": lambda text: f"*<{text.replace('&', '&amp;')}>*",
    "Markdown": lambda text: f"[the report]({text})",
    "JSON": lambda text: json.dumps({"text": text}).replace("/", "\\/").replace("&", "\\u0026"),
    "JSON in JSON": lambda text: json.dumps({"line": json.dumps({"text": text})}),
    "HTML": lambda text: f'<a href="{escape(text)}">{escape(text[:150])}…</a>',
    "decimal entities": escape_decimal,
    "encoded": encode,
    "encoded thrice": lambda text: encode(text, 3),
    "base64": lambda text: f"https://a.example/?u={urlsafe_b64encode(text.encode()).decode()}&s=1",
    "MIME base64": lambda text: (
        f"Encoding: base64\n\n{encodebytes(f'See {text} '.encode()).decode()}"
    ),
    "a fragment": lambda text: f"{text}#page=2",
    "in a path": lambda text: f"https://a.example/L0/{quote(text, safe=':=')}/1/0100018-0000/x=1",
    "half in a path": lambda text: f"https://a.example/go/{text.replace('://', ':%2F%2F')}",
    "behind a path": lambda text: f"https://a.example/web/2026/{text}",
    "behind a path, cleaned": lambda text: f"https://a.example/{text.replace('://', ':/')}",
    "without width": lambda text: split(text, 7, "\u200b"),
    "spaces": lambda text: f"see {split(text, 37, ' ')} and so on",
    "lines": lambda text: f"{split(text, 76, chr(10))}\nRegards, Eve",
    "a quoted mail": lambda text: "> " + split(text, 70, "\n> "),
    "a sentence": lambda text: f"See {text}, and tell.",
}


# Proofpoint rewrites links alone, and nobody copies the source of a mail with new spaces in it.
LINK_WRAPPINGS = {"Proofpoint v2", "Proofpoint v3"}
SOURCES = {"quoted-printable", "MIME base64"}
is_link = re.compile("https?://[!-~]+").fullmatch


def verdict(text: str, grant: AuditedGrant) -> str:
    """Return the verdict as the command finds it, the best one of all readings."""
    readings = [each for each in read_pasted_grant(text) if each.name or each.digests]
    verdicts = [judge(each, grant)[0] for each in readings]
    return min(verdicts, key=VERDICTS.index, default="not found")


def wrap(url: str, inner: str, outer: str) -> str | None:
    """Return a text in two wrappings, None for those that nobody makes."""
    text = WRAPPINGS[inner](url)
    if (outer in LINK_WRAPPINGS and not is_link(text)) or (outer == "spaces" and inner in SOURCES):
        return None
    return WRAPPINGS[outer](text)


@pytest.mark.parametrize("outer", WRAPPINGS)
def test_a_genuine_link_in_any_two_wrappings_is_genuine(outer: str) -> None:
    found = {
        (name, inner): verdict(text, grant)
        for (name, (url, grant)), inner in product(LINKS.items(), WRAPPINGS)
        if (text := wrap(url, inner, outer)) is not None
    }
    assert {case: each for case, each in found.items() if each != "genuine"} == {}


CHANGES: dict[str, Callable[[str], str]] = {
    "key": lambda url: url.replace("acme/2026", "acme/2027"),
    "bucket": lambda url: url.replace("reports", "reports2"),
    "another host": lambda url: re.sub("//[^/]+", "//evil.example", url),
    "a host behind ours": lambda url: re.sub("(//[^/]+)", r"\1.evil.example", url),
    "the bucket of another": lambda url: re.sub(
        "//[^/]+(/reports)?", "//evil.s3.amazonaws.com/reports", url
    ),
    "expiry": lambda url: url.replace("Expires=86400", "Expires=604800"),
    "no lifetime": lambda url: url.replace("&X-Amz-Expires=86400", ""),
    "two expiries": lambda url: url.replace("Expires=86400", "Expires=86400&X-Amz-Expires=9"),
    "an expiry of 5,000 digits": lambda url: url.replace("=86400", "=" + "9" * 5_000),
    "an expiry with a zero": lambda url: url.replace("=86400", "=086400"),
    "date": lambda url: url.replace("Date=20261124", "Date=20261125"),
    "signer": lambda url: url.replace(ACCESS_KEY, "AKIDOTHER"),
    "id": lambda url: url.replace("x-grant-id", "x-grant"),
    "signature": lambda url: url[:-64] + "0" * 64,
    "half of the signature": lambda url: url[:-32],
    "a forged link around it": lambda url: f"{url[:-64]}{'0' * 64}&next={quote(url, safe='')}",
}
SOME = st.sampled_from


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=20)
@given(link=SOME(list(LINKS)), inner=SOME(list(WRAPPINGS)), outer=SOME(list(WRAPPINGS)))
def test_nothing_that_was_changed_is_genuine_in_any_wrapping(
    change: str, link: str, inner: str, outer: str
) -> None:
    url, grant = LINKS[link]
    text = wrap(CHANGES[change](url), inner, outer)
    with suppress(Unreadable):
        assert text is None or verdict(text, grant) not in {"genuine", "named"}


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "half of the signature"])
def test_a_change_is_found_in_a_plain_link(change: str) -> None:
    for url, grant in LINKS.values():
        expected = dict.fromkeys(("signature", "a forged link around it"), "forged")
        expected |= {"no lifetime": "truncated"}
        found = verdict(CHANGES[change](url), grant)
        assert found == expected.get(change, "altered")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_signature_that_was_cut_off_is_truncated(wrapping: str) -> None:
    for url, grant in LINKS.values():
        assert verdict(WRAPPINGS[wrapping](url[:-30]), grant) == "truncated"


def test_a_link_that_was_cut_off_before_its_signature_is_truncated() -> None:
    for url, grant in LINKS.values():
        start, _, _ = url.partition("&X-Amz-Signature")
        assert verdict(start, grant) == verdict(f"{start}&X-Amz-Signature=", grant) == "truncated"


def test_a_signature_with_a_digit_too_many_is_truncated() -> None:
    for url, grant in LINKS.values():
        assert verdict(f"{url}0", grant) == "truncated"


def test_a_lone_surrogate_in_a_link_is_read() -> None:
    for url, grant in LINKS.values():
        assert verdict(f"{url}\ud800", grant) == "genuine"
        assert verdict(url.replace("Signature=", "Signature=\udcff"), grant) == "truncated"


HOSTILE = [
    *("%25", "&amp;", "\\u005c", "=3D=", "aHR0c", "https://", "https://urldefense.com/v3/__"),
    *("https://urldefense.proofpoint.com/v2/url?u=-2", "__;*", "signature ", "signature=0 ", "=\n"),
    *("<input ", "<input name=a><!--", "&#", "x-amz-signature=", "[", "> \n", "A" * 41 + "\n"),
    *("?&", "https://a/?&", "https:/", "\u200b", "x-amz-date:", '{"url": "', "*", "key = "),
]


def seconds(read: Callable[[str], object], text: str) -> float:
    start = process_time()
    with suppress(Unreadable):
        read(text)
    return process_time() - start


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    short, long = (unit * (size // len(unit)) for size in (MAX_PASTED_BYTES // 8, MAX_PASTED_BYTES))
    # Quadratic time would be 64 times as long; 0.2 s is for a machine that is busy.
    assert seconds(read_pasted_grant, long) < 24 * seconds(read_pasted_grant, short) + 0.2


def test_a_text_has_a_bounded_number_of_decodings() -> None:
    text = str(LINKS["virtual host"][0][:-1])
    for _ in range(MAX_TEXTS):
        text = quote(text, safe="")
        text = text if len(text) < MAX_PASTED_BYTES else text[:MAX_PASTED_BYTES]
    texts = [each for level in decodings(text) for each in level]
    assert len(texts) <= MAX_TEXTS
    assert max(map(len, texts)) <= MAX_PASTED_BYTES


def test_a_longer_text_is_refused_unread() -> None:
    with pytest.raises(Unreadable, match="longer than 65,536 bytes"):
        read_pasted_grant("%25" * 350_000)
