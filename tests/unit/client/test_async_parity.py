"""AsyncClient offers what Client offers."""

from collections.abc import Callable
from inspect import getmembers, isfunction, signature

import pytest

from valetkey import AsyncClient, Client


def public_methods(client: type) -> dict[str, Callable[..., object]]:
    members = getmembers(client, isfunction)
    return {name: method for name, method in members if not name.startswith("_")}


def defaults(method: Callable[..., object]) -> dict[str, object]:
    return {name: value.default for name, value in signature(method).parameters.items()}


SYNC, ASYNC = public_methods(Client), public_methods(AsyncClient)


def test_both_clients_have_the_same_methods() -> None:
    assert SYNC.keys() == ASYNC.keys()


@pytest.mark.parametrize("name", sorted(SYNC.keys() & ASYNC.keys()))
def test_a_method_has_the_same_parameters_and_defaults_in_both_clients(name: str) -> None:
    assert defaults(SYNC[name]) == defaults(ASYNC[name])
