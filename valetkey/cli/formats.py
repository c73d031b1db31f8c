"""Answers as text: what `--json`, `--csv` and the other forms write."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic_core import to_json

from valetkey.cli.snippets import curl, javascript, page, plain_text
from valetkey.wire.messages import Grant
from valetkey.wire.refusals import Refusal

Answer = Grant | Refusal

_COLUMNS = ("key", "id", "method", "url", "fields", "headers", "expires_at", "limited_by")
_REFUSED = ("refused", "field", "message")


class OutputFormat(NamedTuple):
    """How answers are written: what stands above them, and each one with its line's end."""

    heading: str
    row: Callable[[Answer], str]


class _Returned:
    """A stream that keeps nothing: what is written to it is what its write returns."""

    def write(self, text: str) -> str:
        return text


# Up to Python 3.12 only what is in the line's end is quoted, and a key may hold a carriage return.
_CSV = csv.writer(_Returned(), lineterminator="\r\n")


def json_line(answer: Answer) -> str:
    """An answer as one JSON object, as it came over the wire; a refusal has a `code`."""
    return to_json(answer).decode() + "\n"


def csv_row(answer: Answer) -> str:
    """An answer as a CSV row; the columns of what it is not stay empty."""
    cells = _granted(answer) if isinstance(answer, Grant) else _refused(answer)
    row: str = _CSV.writerow(cells)
    return row.removesuffix("\r\n") + "\n"


def text_format(show: Callable[[Grant], str]) -> OutputFormat:
    """Each grant as show says, and refusals not at all."""
    return OutputFormat("", lambda answer: show(answer) + "\n" if isinstance(answer, Grant) else "")


def get_format(name: str, path: str | None = None) -> OutputFormat:
    """The form of this name; path is the file that a curl command is to send, if it is known."""
    return text_format(lambda grant: curl(grant, path)) if name == "curl" else _FORMS[name]


JSON = OutputFormat("", json_line)
CSV = OutputFormat(",".join((*_COLUMNS, *_REFUSED)) + "\n", csv_row)
_FORMS = {
    "json": JSON,
    "csv": CSV,
    "url": text_format(lambda grant: grant.url),
    "lines": text_format(lambda grant: f"{grant.key}\t{grant.url}"),
    "form": text_format(plain_text),
    "html": text_format(page),
    "js": text_format(javascript),
}


def _granted(grant: Grant) -> tuple[str, ...]:
    sent = (_object(grant.fields), _object(grant.headers))
    until = (_moment(grant.expires_at), grant.limited_by)
    return (grant.key, grant.id, grant.method, grant.url, *sent, *until, "", "", "")


def _refused(refusal: Refusal) -> tuple[str, ...]:
    key = refusal.key or ""
    return (key, "", "", "", "", "", "", "", refusal.code, refusal.field, refusal.message)


def _object(values: dict[str, str]) -> str:
    return json.dumps(values) if values else "{}"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
