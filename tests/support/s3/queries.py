"""Changes to the query of a signed URL: its parameters as they stand there, nothing decoded."""

from collections.abc import Callable

Change = Callable[[list[str]], list[str]]


def changed(url: str, change: Change) -> str:
    path, _, query = url.partition("?")
    return f"{path}?{'&'.join(change(query.split('&')))}"


def without(*names: str) -> Change:
    return lambda query: [each for each in query if each.partition("=")[0] not in names]


def replaced(name: str, value: str) -> Change:
    return lambda query: [*without(name)(query), f"{name}={value}"]


def added(*params: str) -> Change:
    return lambda query: [*query, *params]


def preceded(*params: str) -> Change:
    return lambda query: [*params, *query]


def flipped(name: str) -> Change:
    """The last character of a value is another."""

    def change(query: list[str]) -> list[str]:
        (found,) = [each for each in query if each.startswith(f"{name}=")]
        other = "0" if found[-1] != "0" else "1"
        return replaced(name, found.partition("=")[2][:-1] + other)(query)

    return change
