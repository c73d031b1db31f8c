import sys
import unicodedata

import pytest

from tests.support.s3.http_requests import get, post, send
from tests.support.s3.stores import UPLOAD, Store

# The Unicode categories that a key may contain: not controls, formats, separators, surrogates.
CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Co", "Cn"),
)
BY_CATEGORY: dict[str, list[str]] = {name: [] for name in CATEGORIES}
for character in map(chr, range(sys.maxunicode + 1)):
    BY_CATEGORY.get(unicodedata.category(character), []).append(character)


def sample_keys(category: str) -> list[str]:
    """Return up to ten keys with characters from the whole range of a category."""
    characters = [each for each in BY_CATEGORY[category] if each not in "/\\"]
    sample = {characters[index * (len(characters) - 1) // 9] for index in range(10)}
    return [f"acme/{category}/a{each}b" for each in sorted(sample)]


ODD_KEYS = (
    "acme/odd/a b",
    "acme/odd/a+b",
    "acme/odd/a%20b",
    "acme/odd/a%2520b",
    "acme/odd/a%b",
    "acme/odd/a&b=c;d?e#f",
    "acme/odd/\"quoted\" 'twice' `thrice`",
    "acme/odd/<tag attr='1'>&amp;",
    "acme/odd/{a}[b]|c^d~e$f@g!h*i(j),k:l",
    "acme/odd/${name}",
    "acme/odd/\u00e9 composed",
    "acme/odd/e\u0301 decomposed",
    "acme/odd/\u1112\u1161\u11ab decomposed Hangul",
    "acme/odd/...",
    "acme/odd/.hidden",
    "acme/odd/trailing ",
    "acme/odd/" + "/".join(["x" * 60] * 16),
    "acme/odd/" + "ü" * 100,
)


def check_round_trip(store: Store, keys: list[str]) -> None:
    """Upload each key as an object's content with a form, and check it with a link."""
    items = [{"key": key} for key in keys]
    for grant in store.issue_grants(*items, **{**UPLOAD, "max_size": 2_000}):
        assert send(post(grant, grant.key.encode())).is_success, ascii(grant.key)
    for grant in store.issue_grants(*items):
        response = send(get(grant.url))
        assert (response.status, response.body) == (200, grant.key.encode()), ascii(grant.key)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_key_of_any_category_of_characters_comes_through(store: Store, category: str) -> None:
    check_round_trip(store, sample_keys(category))


def test_an_odd_key_comes_through(store: Store) -> None:
    check_round_trip(store, list(ODD_KEYS))
