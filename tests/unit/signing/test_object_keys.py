import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.signing import object_keys

WHOLE_BUCKET = ("",)


def refusal_code(key: str, *prefixes: str) -> str | None:
    refusal = object_keys.key_refusal(key, prefixes or WHOLE_BUCKET, "items[0].key")
    return None if refusal is None else str(refusal.code)


@pytest.mark.parametrize(
    "key",
    [
        *("a", "2026/11/Ünïcode 日本.pdf", "a b+c@d=e,f;g'h()i&j$k?l#m.txt", "100%", "..a/b.."),
        *("x" * 1_024, "日" * 341),
    ],
)
def test_an_ordinary_key_is_accepted(key: str) -> None:
    assert refusal_code(key) is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", "key_empty"),
        ("x" * 1_025, "key_too_long"),
        ("日" * 342, "key_too_long"),
        ("a\ud800", "key_invalid"),
        ("..", "key_traversal"),
        ("a/../b", "key_traversal"),
        ("a/./b", "key_traversal"),
        ("%2e%2e/a", "key_traversal"),
        ("a%2f..%2fb", "key_traversal"),
        ("%252e%252e/a", "key_traversal"),
        ("/a", "key_empty_segment"),
        ("a//b", "key_empty_segment"),
        ("a/", "key_empty_segment"),
        ("a\\b", "key_backslash"),
        ("a\r\nb", "key_control"),
        ("a\x7fb", "key_control"),
        ("a%0ab", "key_control"),
        ("a\u200bb", "key_invisible"),
        ("a\u2028b", "key_invisible"),
        ("acme/${filename}", "key_reserved"),
    ],
)
def test_a_key_that_two_programs_could_read_differently_is_refused(key: str, expected: str) -> None:
    assert refusal_code(key) == expected


@given(st.text(st.sampled_from([*"aA0._-/ %\\\0", "é"]), max_size=12))
def test_a_simple_key_is_safe_by_every_rule(key: str) -> None:
    if object_keys.is_simple_key(key):
        segments = key.split("/")
        assert "%" not in key
        assert not {"", ".", ".."} & set(segments)
        assert object_keys._find_text_violation(key) is None


def test_a_refusal_lists_the_allowed_prefixes() -> None:
    refusal = object_keys.key_refusal("b/x", ("a/", "c/"), "items[7].key")
    assert refusal is not None
    assert (refusal.field, refusal.limit, refusal.key) == ("items[7].key", ["a/", "c/"], "b/x")


@given(st.text(st.characters()))  # lone surrogates too
def test_every_printable_key_can_be_stored_and_sent(key: str) -> None:
    assert b"\0" not in object_keys.printable_key(key).encode()


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20))
def test_an_accepted_key_never_leaves_its_prefix(tail: str) -> None:
    if refusal_code(f"acme/{tail}", "acme/") is None:
        segments = f"acme/{tail}".split("/")
        assert segments[0] == "acme"
        assert not {"", ".", ".."} & set(segments)
