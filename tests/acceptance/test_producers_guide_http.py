"""The endpoints, the view and the webhooks of docs/producers.md, asked as a browser asks them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Service
from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from tests.support.servers.desk import NOBODY, Desk, is_genuine, reading, silent
from tests.support.servers.waiting import wait_until

PORTAL = Path(__file__).with_name("portal.py")
PNG = "/slots?content_type=image/png"


@pytest.fixture
def desk(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return reading(service, tmp_path, monkeypatch)


async def posted(app: Any, path: str, **said: Any) -> httpx.Response:
    """What an application answers to a POST, begun and ended as a server does it."""
    to = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), to:
        return await to.post(path, **said)


def test_a_slot_of_the_endpoint_takes_an_image_of_its_size(desk: Desk) -> None:
    answer = asyncio.run(posted(desk.module("uploads.py").app, PNG))
    assert answer.status_code == 200
    slot = answer.json()

    def sent(content: bytes) -> int:
        files = {"file": content}
        return httpx.post(slot["url"], data=slot["fields"], files=files, timeout=60).status_code

    assert sent(bytes(500_001)) == 400
    assert sent(b"PNG") == 204


def test_the_endpoint_says_why_there_is_no_slot(
    service: Service, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = desk.module("uploads.py").app
    assert asyncio.run(posted(app, PNG.replace("image/png", "text/html"))).status_code == 403
    monkeypatch.delenv("VALETKEY_KEY_FILE")
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    over_quota = silent(service, 6)
    monkeypatch.setenv("VALETKEY_BROKER_URL", over_quota)
    monkeypatch.delenv("VALETKEY_RESULT_URL")
    with running_fake_service(over_quota, decide=refuse_outcome):
        assert asyncio.run(posted(app, PNG)).status_code == 429
    monkeypatch.setenv("VALETKEY_BROKER_URL", NOBODY)
    answer = asyncio.run(posted(app, PNG))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def portal(desk: Desk, *users: str, **environ: str) -> list[tuple[int, dict[str, str]]]:
    """What the Django view answers to users."""
    code, said, wrong = desk.python(str(PORTAL), *users, **environ)
    assert code == 0, wrong
    return [tuple(json.loads(line)) for line in said.splitlines()]


def test_a_view_redirects_to_what_is_its_users_own_and_nowhere_else(desk: Desk) -> None:
    (found, headers), (refusal, _) = portal(desk, "7", "../../8")
    assert (found, headers["Cache-Control"]) == (302, "no-store")
    assert "/acme/statements/2026-11/7.pdf?" in headers["Location"]
    assert is_genuine(headers["Location"])
    assert refusal == 403


def test_a_view_without_a_queue_says_when_to_try_again(desk: Desk) -> None:
    ((status, headers),) = portal(desk, "7", VALETKEY_BROKER_URL=NOBODY)
    assert (status, headers["Retry-After"]) == (503, "5")


def test_a_webhook_is_taken_once_and_only_if_it_is_genuine(service: Service, desk: Desk) -> None:
    assert desk.python("ask.py") == [0, "", ""]
    got = service.receiver

    def arrived() -> list[int]:
        return [n for n, body in enumerate(got.bodies) if b"acme/archive/39.pdf" in body]

    number = wait_until(arrived, what="the webhook came")[0]
    headers = {name: text for name, text in got.headers[number].items() if "ebhook-" in name}
    module = desk.module("hooks.py")

    def told(body: bytes) -> int:
        return asyncio.run(posted(module.app, "/hook", content=body, headers=headers)).status_code

    assert told(got.bodies[number] + b" ") == 400
    assert not module.links
    assert told(got.bodies[number]) == 204
    assert len(module.links) == 40
    assert is_genuine(module.links.pop("acme/archive/39.pdf"))
    assert told(got.bodies[number]) == 204
    assert len(module.links) == 39
