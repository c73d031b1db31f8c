"""Reads the codes of refusals with the comments beside them, and prints them as a table."""

import inspect
import re
from typing import NamedTuple

from valetkey.wire.refusals import UNAUTHENTICATED, Code

_CODE_LINE = re.compile(r'[A-Z0-9_]+ = "([a-z0-9_]+)"(?:  # (.+))?')
# An exemption from a lint rule stands before the meaning, separated by a semicolon.
_EXEMPTION = re.compile(r"noqa: [^;]*; ")
_INTRODUCTION = """\
# Refusal codes

The `code` of a refusal, by topic. Programs decide by the code; the `message` is for people, and its
wording may change. A code is never renamed or reused. A later service may send codes that are not
in this table: treat an unknown code as a refusal whose reason you cannot handle.

Replies with a code marked *plain* are not sealed, because the service has not authenticated the
sender.

This page is generated from the messages: `make contract` writes it.
"""


class CodeMeaning(NamedTuple):
    """A code of a refusal, its meaning, and the topic that it belongs to."""

    code: str
    meaning: str
    topic: str


def read_codes() -> list[CodeMeaning]:
    """Return all codes in the order of their definition; a code without a comment has no meaning.

    A comment on its own line above some codes is their topic.
    """
    codes: list[CodeMeaning] = []
    topic = ""
    for line in inspect.getsource(Code).splitlines():
        text = line.strip()
        if text.startswith("# "):
            topic = text.removeprefix("# ").partition(". ")[0].rstrip(".")
        elif match := _CODE_LINE.fullmatch(text):
            meaning = _EXEMPTION.sub("", match[2] or "")
            codes.append(CodeMeaning(match[1], meaning, topic))
    return codes


def codes_page() -> str:
    """Return a page in Markdown with a table of all codes."""
    lines = [_INTRODUCTION]
    topic = None
    for code in read_codes():
        if code.topic != topic:
            topic = code.topic
            lines += [f"## {topic}", "", "| code | meaning |", "| --- | --- |"]
        plain = " *(plain)*" if code.code in UNAUTHENTICATED else ""
        lines.append(f"| `{code.code}`{plain} | {code.meaning} |")
    return _with_blank_lines("\n".join(lines))


def _with_blank_lines(text: str) -> str:
    return re.sub(r"\n## ", "\n\n## ", text).replace("\n\n\n", "\n\n") + "\n"
