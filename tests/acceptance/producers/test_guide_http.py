"""The endpoints, the view and the webhooks of docs/producers.md, called over HTTP."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import ROOT, Service
from tests.support.fakes.fake_service import refuse_outcome, running_fake_service
from tests.support.servers.guide_sandbox import (
    UNREACHABLE_URL,
    GuideSandbox,
    is_genuine,
    unused_database_url,
)
from tests.support.servers.waiting import wait_until

DJANGO_SITE = ROOT / "tests" / "support" / "servers" / "django_site.py"
PNG = "/slots?content_type=image/png"


async def post(app: Any, path: str, **arguments: Any) -> httpx.Response:
    """Send a POST to an application, with its startup and shutdown; return the response."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        return await client.post(path, **arguments)


def test_a_form_of_the_endpoint_accepts_an_image_within_its_size_limit(
    sandbox: GuideSandbox,
) -> None:
    response = asyncio.run(post(sandbox.load_module("uploads.py").app, PNG))
    assert response.status_code == 200
    form = response.json()

    def upload_status(content: bytes) -> int:
        files = {"file": content}
        return httpx.post(form["url"], data=form["fields"], files=files, timeout=60).status_code

    assert upload_status(bytes(500_001)) == 400
    assert upload_status(b"PNG") == 204


def test_the_endpoint_reports_why_it_returns_no_form(
    service: Service, sandbox: GuideSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sandbox.load_module("uploads.py").app
    assert asyncio.run(post(app, PNG.replace("image/png", "text/html"))).status_code == 403
    monkeypatch.delenv("VALETKEY_KEY_FILE")
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    quota_url = unused_database_url(service, 6)
    monkeypatch.setenv("VALETKEY_BROKER_URL", quota_url)
    monkeypatch.delenv("VALETKEY_RESULT_URL")
    with running_fake_service(quota_url, decide=refuse_outcome):
        assert asyncio.run(post(app, PNG)).status_code == 429
    monkeypatch.setenv("VALETKEY_BROKER_URL", UNREACHABLE_URL)
    response = asyncio.run(post(app, PNG))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def get_statement(
    sandbox: GuideSandbox, *users: str, **environ: str
) -> list[tuple[int, dict[str, str]]]:
    """Return the Django view's status and headers for each user."""
    code, stdout, stderr = sandbox.python(str(DJANGO_SITE), *users, **environ)
    assert code == 0, stderr
    return [tuple(json.loads(line)) for line in stdout.splitlines()]


def test_a_view_redirects_to_what_is_its_users_own_and_nowhere_else(sandbox: GuideSandbox) -> None:
    (status, headers), (other_status, _) = get_statement(sandbox, "7", "../../8")
    assert (status, headers["Cache-Control"]) == (302, "no-store")
    assert "/acme/statements/2026-11/7.pdf?" in headers["Location"]
    assert is_genuine(headers["Location"])
    assert other_status == 403


def test_a_view_without_a_queue_says_when_to_try_again(sandbox: GuideSandbox) -> None:
    ((status, headers),) = get_statement(sandbox, "7", VALETKEY_BROKER_URL=UNREACHABLE_URL)
    assert (status, headers["Retry-After"]) == (503, "5")


def test_a_webhook_is_processed_once_and_only_if_it_is_genuine(
    service: Service, sandbox: GuideSandbox
) -> None:
    assert sandbox.python("ask.py") == [0, "", ""]
    receiver = service.receiver

    def arrived_numbers() -> list[int]:
        return [n for n, body in enumerate(receiver.bodies) if b"acme/archive/39.pdf" in body]

    number = wait_until(arrived_numbers, what="the webhook has arrived")[0]
    headers = {name: text for name, text in receiver.headers[number].items() if "ebhook-" in name}
    module = sandbox.load_module("hooks.py")

    def post_webhook(body: bytes) -> int:
        return asyncio.run(post(module.app, "/hook", content=body, headers=headers)).status_code

    assert post_webhook(receiver.bodies[number] + b" ") == 400
    assert not module.links
    assert post_webhook(receiver.bodies[number]) == 204
    assert len(module.links) == 40
    assert is_genuine(module.links.pop("acme/archive/39.pdf"))
    assert post_webhook(receiver.bodies[number]) == 204
    assert len(module.links) == 39
