"""Secrets in base64 of several lines, as `base64.encodebytes` and e-mails write it."""

import base64
import json
import time
from hashlib import sha256

import pytest

from worker.logs import scrub

HEX = [sha256(bytes([number])).hexdigest() for number in range(4)]
CONTENTS = {
    "an object": json.dumps({"keys": HEX}),
    "an indented object": json.dumps({"keys": HEX}, indent=1),
    "a message body": json.dumps([["eyJhbGciOiJFZDI1NTE5In0.e30." + "".join(HEX)], {}, None]),
}


def quoted(text: str) -> list[str]:
    """Return a text as it is and as others quote it."""
    return [text, repr(text), json.dumps([text]), repr([text.encode()]), json.dumps(repr(text))]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n  "], ids=repr)
@pytest.mark.parametrize("start", ["", "body: ", "token=", "Authorization: Bearer ", '{"token": "'])
def test_no_line_of_wrapped_base64_is_shown(content: str, end: str, start: str) -> None:
    lines = base64.encodebytes(content.encode()).decode().split()
    assert len(lines) >= 4
    for text in quoted(start + end.join(lines) + end):
        scrubbed = scrub(text)
        assert [line for line in lines if line in scrubbed] == []
        assert scrub(scrubbed) == scrubbed


def test_the_line_after_wrapped_base64_is_shown() -> None:
    text = f"body: eyJ{'A' * 73}\nQUFB\nthe next line"
    assert scrub(text) == "body: [hidden]\nthe next line"


@pytest.mark.parametrize("cut", ["... (512b)", "…", " of a message"])
def test_the_last_line_of_wrapped_base64_is_hidden_before_a_text(cut: str) -> None:
    text = f"body: eyJ{'A' * 73}\n5ec2e7"
    assert "5ec2e7" not in scrub(text + cut)


@pytest.mark.parametrize("start", ["eyJ", "token=eyJ", "Authorization: Bearer eyJ"])
@pytest.mark.parametrize(
    "after",
    ["password=5ec2e7", "token = 5ec2e7", "Failing row contains (1, 5ec2e7)", "whsec_5ec2e7"],
)
def test_a_secret_in_the_line_after_base64_is_hidden(start: str, after: str) -> None:
    for text in quoted(f"{start}{'A' * 73}\n{after}"):
        assert "5ec2e7" not in scrub(text)


@pytest.mark.parametrize("unit", ["A" * 60 + "\n", "A" * 60 + "\\n", "A" * 60 + "\n" + " " * 60])
@pytest.mark.parametrize("start", ["", "eyJ", "token: eyJ", "cookie: ", "token='"])
def test_scrubbing_many_lines_takes_linear_time(unit: str, start: str) -> None:
    text = start + unit * (50_000 // len(unit))
    begin = time.process_time()
    scrub(text + "=")
    assert time.process_time() - begin < 1
