"""A Django site with a view of docs/producers.md. Prints its response to each user as JSON."""

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


class UserHeaderMiddleware:
    """A middleware that takes the user from the X-User header."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.user = SimpleNamespace(pk=request.headers["X-User"])
        return self._get_response(request)


sys.path.insert(0, "")  # the working folder contains the guide's programs
urlpatterns = [path("statements/<str:month>", import_module("views").statement)]

if __name__ == "__main__":
    settings.configure(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.UserHeaderMiddleware"])
    django.setup()
    for user in sys.argv[1:]:
        response = Client().get("/statements/2026-11", headers={"X-User": user})
        sys.stdout.write(json.dumps([response.status_code, dict(response.headers)]) + "\n")
