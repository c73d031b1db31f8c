"""A Django site around a view of docs/producers.md: print what it answers to each of its users."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import django
from django.conf import settings
from django.test import Client
from django.urls import path


class LoggedIn:
    """A middleware that knows its users by a header."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer

    def __call__(self, request: Any) -> Any:
        request.user = SimpleNamespace(pk=request.headers["X-User"])
        return self._answer(request)


sys.path.insert(0, "")  # where the guide's programs are
urlpatterns = [path("statements/<str:month>", import_module("views").statement)]

if __name__ == "__main__":
    settings.configure(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.LoggedIn"])
    django.setup()
    for user in sys.argv[1:]:
        answer = Client().get("/statements/2026-11", headers={"X-User": user})
        sys.stdout.write(json.dumps([answer.status_code, dict(answer.headers)]) + "\n")
