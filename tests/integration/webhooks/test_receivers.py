"""The receivers of examples/webhooks, each with the test client of its framework."""

import asyncio
import base64
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple, get_args

import django.test
import httpx
import pytest
from django.test.utils import override_settings

from tests.support.docs.command_lines import ROOT
from tests.support.s3 import chromium
from tests.support.scope import skip_without
from tests.support.servers.waiting import wait_until
from valetkey import Grant
from valetkey.session import new_id
from valetkey.testing import FakeClient
from valetkey.webhook_examples import example_body
from valetkey.webhooks import GrantsDecided, sign
from valetkey.wire.events import (
    EVENT_TYPES,
    MAX_WEBHOOK_BYTES,
    AnyEvent,
    DecidedGrants,
    EventType,
)

FOLDER = ROOT / "examples" / "webhooks"
SECRET, OLD_SECRET, OTHER_SECRET = (
    f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in range(3)
)

Post = Callable[[bytes, dict[str, str]], int]
"""Posts a body with headers, and returns the status of the response."""


class Receiver(NamedTuple):
    """A receiver, and a function that returns the lines about the uploads that it has stored."""

    post: Post
    stored: Callable[[], list[str]]

    def send(self, body: bytes, secret: str = SECRET, message_id: str = "", **headers: str) -> int:
        signed = sign(body, message_id or new_id(), datetime.now(UTC), secret)
        return self.post(body, signed | headers)


def load_app(name: str) -> Any:
    spec = spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fastapi_post() -> Post:
    transport = httpx.ASGITransport(load_app("fastapi_app").app)

    async def post(body: bytes, headers: dict[str, str]) -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post("/hook", content=body, headers=headers)).status_code

    return lambda body, headers: asyncio.run(post(body, headers))


def flask_post() -> Post:
    client = load_app("flask_app").app.test_client()
    return lambda body, headers: client.post("/hook", data=body, headers=headers).status_code


def django_post() -> Post:
    override_settings(ROOT_URLCONF=load_app("django_app")).enable()
    client = django.test.Client()

    def post(body: bytes, headers: dict[str, str]) -> int:
        status: int = client.post(
            "/hook", body, headers["content-type"], headers=headers
        ).status_code
        return status

    return post


POSTS = {"fastapi": fastapi_post, "flask": flask_post, "django": django_post}


@contextmanager
def python_receiver(name: str, folder: Path) -> Iterator[Receiver]:
    database = folder / "hooks.db"

    def stored() -> list[str]:
        with closing(sqlite3.connect(database)) as connection:
            return [f"{key} {size}" for key, size in connection.execute("SELECT * FROM uploads")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOOK_DATABASE", str(database))
        patch.setenv("VALETKEY_HOOK_SECRET", f"{SECRET} {OLD_SECRET}")
        yield Receiver(POSTS[name](), stored)


@contextmanager
def express_receiver(folder: Path) -> Iterator[Receiver]:
    node, output = chromium.node(), folder / "output"
    if node is None or not (FOLDER / "node_modules").exists():
        skip_without("the receiver of webhooks with Express", "make browser")
    environ = {"VALETKEY_HOOK_SECRET": f"{SECRET} {OLD_SECRET}", "PORT": "0"}
    command = [node, str(FOLDER / "express_app.mjs")]

    def lines() -> list[str]:
        return output.read_text(encoding="utf-8").splitlines()

    with output.open("wb") as file, subprocess.Popen(command, env=environ, stdout=file) as process:
        url, *_ = wait_until(lines, what="the receiver listens")
        yield Receiver(
            lambda body, headers: httpx.post(url, content=body, headers=headers).status_code,
            lambda: lines()[1:],
        )
        process.terminate()


@pytest.fixture(scope="module", params=[*POSTS, "express"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp(request.param)
    running = express_receiver(folder) if request.param == "express" else None
    with running or python_receiver(request.param, folder) as receiver:
        yield receiver


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_a_webhook_is_stored_if_any_secret_signed_it(receiver: Receiver, secret: str) -> None:
    tenant = f"tenant-{new_id()}"
    assert receiver.send(example_body("upload.stored", tenant), secret) == 204
    assert f"{tenant}/photo.jpg 48211" in receiver.stored()


def test_a_repeat_is_accepted_and_changes_nothing(receiver: Receiver) -> None:
    bodies = [example_body("upload.stored", f"tenant-{new_id()}") for _ in range(2)]
    message_id = new_id()
    assert receiver.send(bodies[0], message_id=message_id) == 204
    before = receiver.stored()
    # The service sends the same body again; another one shows that it is not stored.
    assert receiver.send(bodies[1], message_id=message_id) == 204
    assert receiver.stored() == before


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_type_is_accepted(receiver: Receiver, event_type: EventType) -> None:
    assert receiver.send(example_body(event_type)) == 204


def test_an_event_of_an_unknown_type_is_accepted_and_ignored(receiver: Receiver) -> None:
    before = receiver.stored()
    payload = json.loads(example_body("upload.stored", f"tenant-{new_id()}"))
    assert receiver.send(json.dumps(payload | {"type": "upload.scanned"}).encode()) == 204
    assert receiver.stored() == before


def test_what_is_not_valid_is_refused_and_not_stored(receiver: Receiver) -> None:
    before = receiver.stored()
    body = example_body("upload.stored", f"tenant-{new_id()}")
    late = sign(body, new_id(), datetime.now(UTC) - timedelta(minutes=6), SECRET)
    assert receiver.send(body, OTHER_SECRET) == 400
    assert receiver.send(body, **{"webhook-id": "changed"}) == 400
    assert receiver.post(body, late) == 400
    assert receiver.post(body, {"content-type": "application/json"}) == 400
    assert receiver.send(b"{") == 400
    assert receiver.send(b"") == 400
    assert receiver.stored() == before


def test_the_largest_webhook_is_accepted(receiver: Receiver) -> None:
    payload = json.loads(example_body("endpoint.test"))
    size = len(json.dumps(payload | {"later": ""}))
    body = json.dumps(payload | {"later": "x" * (MAX_WEBHOOK_BYTES - size)}).encode()
    assert len(body) == MAX_WEBHOOK_BYTES
    assert receiver.send(body) == 204


PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
PROGRAM, TEST, CLAIM = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_has_the_receiver_for_fastapi() -> None:
    assert (FOLDER / "fastapi_app.py").read_text(encoding="utf-8") == PROGRAM


@pytest.mark.parametrize("event_class", get_args(AnyEvent), ids=lambda each: each.__name__)
def test_the_page_has_a_row_and_the_class_of_each_type(event_class: type[AnyEvent]) -> None:
    assert f"\n| `{event_class.model_fields['type'].default}` |" in PAGE
    assert f"`{event_class.__name__}`" in PAGE


def test_the_page_claims_the_links_of_a_thin_webhook() -> None:
    client = FakeClient()
    batch = client.download_many("demo", ["acme/a", "acme/b"])
    grants = list(batch)
    event = GrantsDecided(
        timestamp=datetime.now(UTC),
        data=DecidedGrants(tenant="acme", batch=batch.id, chunk=0, status="issued", thin=True),
    )
    names = {"client": client, "event": event, "Grant": Grant}
    exec(CLAIM, names)  # noqa: S102 - the page's own code
    assert names["links"] == [grant.url for grant in grants if isinstance(grant, Grant)]


def test_the_page_tests_a_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_DATABASE", str(tmp_path / "hooks.db"))
    monkeypatch.setenv("VALETKEY_HOOK_SECRET", SECRET)
    monkeypatch.setitem(sys.modules, "flask_app", load_app("flask_app"))
    names: dict[str, Any] = {}
    exec(TEST, names)  # noqa: S102 - as above
    names["test_an_upload_is_stored"]()
