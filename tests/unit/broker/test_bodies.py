from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.frames import call_text
from worker.broker.message_guard import (
    MAX_BODY_CONTAINERS,
    MAX_BODY_DEPTH,
    InvalidMessage,
    check_body,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def check(text: str) -> str | None:
    """Return the part that is refused, if any."""
    try:
        check_body(text.encode())
    except InvalidMessage as error:
        return error.part
    return None


@pytest.mark.parametrize("options", ["null", "{}"])
def test_other_libraries_write_the_options_shorter(options: str) -> None:
    assert check(f"[[1], {{}}, {options}]") is None


@pytest.mark.parametrize(
    "text",
    ["", "[", "7", "{}", "[]", "[[], {}]", "[[], [], []]", "[{}, [], null]", "[[], {}, 7]"],
)
def test_json_of_another_form_is_refused(text: str) -> None:
    assert check(text) == "body"


@pytest.mark.parametrize(
    "message", ['{"tenant": "a", "tenant": "b"}', '{"items": [{"key": "a", "k\\u0065y": "b"}]}']
)
def test_an_object_with_a_member_twice_is_refused(message: str) -> None:
    assert check(f"[[{message}], {{}}, null]") == "body"


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
def test_a_follow_up_that_would_publish_the_answer_is_refused(name: str) -> None:
    assert check(call_text(1, **{name: [{"task": "other.task", "args": []}]})) == name


def test_nesting_is_limited() -> None:
    assert check(call_text(nested(MAX_BODY_DEPTH - 3))) is None
    assert check(call_text(nested(MAX_BODY_DEPTH))) == "body"


def test_nesting_is_limited_by_its_deepest_part() -> None:
    assert check(call_text([1, {"a": [1, {"b": nested(MAX_BODY_DEPTH)}]}])) == "body"


def test_the_number_of_lists_and_objects_is_limited() -> None:
    assert check(call_text([[]] * (MAX_BODY_CONTAINERS - 10))) is None
    assert check(call_text([[]] * MAX_BODY_CONTAINERS)) == "body"


@given(st.lists(st.text(alphabet='[{"\\a', max_size=20), max_size=20))
def test_no_text_hides_brackets_or_adds_some(texts: list[str]) -> None:
    lists: list[Any] = [[]] * (MAX_BODY_CONTAINERS - 10)
    assert check(call_text(texts, lists)) is None
    assert check(call_text(texts, lists, [[]] * 20)) == "body"


@pytest.mark.parametrize("kind", ['"datetime"', '"unknown"', "[]", "7"])
def test_a_value_of_a_type_of_kombu_is_refused_before_kombu_makes_it(kind: str) -> None:
    value = f'{{"__type__": {kind}, "__value__": "x"}}'
    assert check(f'[[{{"items": [{value}]}}], {{}}, null]') == "body"
    assert check(f"[[], {value}, null]") == "body"
