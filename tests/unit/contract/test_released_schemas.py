"""The JSON Schemas have everything that those of the last release have: the wire only grows."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.compatibility.archives import released_schemas
from tests.support.docs.command_lines import ROOT

RELEASED = released_schemas()
SENT = {"envelope.schema.json", "requests.schema.json"}
"""What producers send. They read the rest."""

Fact = tuple[str, Any]
_TEXTS = {"title", "description", "$schema", "$id"}
_ALTERNATIVES = {"anyOf", "oneOf"}
_VALUES = {"const", "enum", "examples"}  # what is open has its known values as examples
_LIMIT = re.compile(r"/(max|min)[A-Z]?[a-z]+$")


def facts(schema: Any, path: str = "") -> Iterator[Fact]:
    """Yield the parts of a schema by their path, and values with the path that they are at.

    The path leaves out where in a list of alternatives a schema is: a new one may come first.
    """
    if isinstance(schema, list):
        for each in schema:
            yield from facts(each, path)
    elif isinstance(schema, dict):
        is_map = path.endswith(("/properties", "/$defs"))
        for name, value in schema.items():
            is_text = name in _TEXTS or (name == "examples" and not isinstance(value[0], str))
            if is_map or not is_text:
                yield from facts(value, _inner_path(path, name))
        yield path, None
    else:
        yield path, schema


def _inner_path(path: str, name: str) -> str:
    if name in _ALTERNATIVES:
        return path
    return f"{path}/value" if name in _VALUES else f"{path}/{name}"


def broken_promises(name: str, released: Any, current: Any) -> list[Any]:
    """Return what a schema of the last release has, and the current one has not."""
    before, now = set(facts(released)), set(facts(current))
    lost = {fact for fact in before - now if not _LIMIT.search(fact[0])}
    if name not in SENT:
        return sorted(lost, key=str)
    # A request that was valid remains so: no field of a released part becomes required.
    paths = {path for path, _ in before}
    added = {
        (path, field)
        for path, field in now - before
        if path.endswith("/required") and path.removesuffix("/required") in paths
    }
    kept = {fact for fact in lost if not fact[0].endswith("/required")}
    return [*sorted(kept | added, key=str), *_narrower_limits(before, now)]


def _narrower_limits(before: set[Fact], now: set[Fact]) -> list[Any]:
    released, current = _widest_limits(before), _widest_limits(now)
    return [
        (path, current[path])
        for path in released.keys() & current.keys()
        if _width(path, current[path]) < _width(path, released[path])
    ]


def _widest_limits(found: set[Fact]) -> dict[str, float]:
    limits = [(path, value) for path, value in found if _LIMIT.search(path) and value is not None]
    return dict(sorted(limits, key=lambda limit: _width(*limit)))


def _width(path: str, value: float) -> float:
    return value if path.rpartition("/")[2].startswith("max") else -value


def current_schema(name: str) -> Any:
    return json.loads((ROOT / "docs" / "contract" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RELEASED)
def test_a_schema_keeps_everything_that_the_last_release_has(name: str) -> None:
    assert broken_promises(name, RELEASED[name], current_schema(name)) == []


REQUESTS = "requests.schema.json"
REPLIES = "replies.schema.json"


def changed(name: str, *words: str, to: Any = None) -> Any:
    """Return a schema in which the value at a path is another one; None removes it."""
    schema = copy.deepcopy(RELEASED[name])
    parent = schema
    for word in words[:-1]:
        parent = parent[word]
    del parent[words[-1]]
    if to is not None:
        parent[words[-1]] = to
    return schema


HEADER = ("$defs", "ChunkMessage")
GRANT = ("$defs", "Grant")


@pytest.mark.parametrize(
    ("name", "words", "to"),
    [
        (REQUESTS, (*HEADER, "properties", "recipient"), None),
        (REQUESTS, (*HEADER, "required"), ["v", "added"]),
        (REQUESTS, ("$defs", "Download", "properties", "method", "enum"), ["GET"]),
        (REPLIES, ("$defs", "Code", "examples"), ["malformed"]),
        (REPLIES, (*GRANT, "properties", "url"), {"type": "integer"}),
        (REPLIES, (*GRANT, "required"), ["url"]),
        (REPLIES, ("$defs", "UseState"), None),
    ],
)
def test_a_removed_or_narrower_part_is_named(name: str, words: tuple[str, ...], to: Any) -> None:
    assert broken_promises(name, RELEASED[name], changed(name, *words, to=to))


def test_a_lower_limit_of_a_request_is_named() -> None:
    schema = RELEASED[REQUESTS]
    text = json.dumps(schema)
    assert '"maxLength": 200' in text
    lower = json.loads(text.replace('"maxLength": 200', '"maxLength": 199'))
    higher = json.loads(text.replace('"maxLength": 200', '"maxLength": 201'))
    assert broken_promises(REQUESTS, schema, lower)
    assert broken_promises(REQUESTS, schema, higher) == []


def test_what_is_added_breaks_no_promise() -> None:
    fields = RELEASED[REPLIES]["$defs"]["Grant"]["properties"] | {"added": {"type": "string"}}
    grown = changed(REPLIES, *GRANT, "properties", to=fields)
    assert broken_promises(REPLIES, RELEASED[REPLIES], grown) == []
