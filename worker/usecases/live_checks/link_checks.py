"""Checks of links: GET, HEAD, and what their holder may not change."""

from collections.abc import Callable
from datetime import UTC, datetime

from valetkey.wire.messages import Item
from valetkey.wire.replies import Grant
from valetkey.wire.terms import Download
from worker.net.storage_requests import StorageRequest
from worker.usecases.live_checks.check import LiveCheck, needs_owner, needs_role
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.probe import BODY, VALID_SECONDS, Probe, get_request
from worker.usecases.live_checks.tampering import (
    with_changed_signature,
    with_parameter,
    without_parameters,
)

_STRANGERS = ("111111111111", "222222222222")  # accounts of which one does not own the bucket
EXPIRED_SECONDS = 1.5
"""Seconds after the end of a grant at which it is tried: clocks differ by parts of a second."""


def _get(probe: Probe) -> Outcome:
    key = probe.store()
    response = probe.send(get_request(probe.download(key, filename="report.txt")))
    disposition = response.headers.get("content-disposition", "")
    if response.body != BODY:
        return Outcome(response, "the response has other bytes than the object")
    is_signed = disposition.startswith("attachment") and "report.txt" in disposition
    return Outcome(response, "" if is_signed else "the file name is not the signed one")


def _head(probe: Probe) -> Outcome:
    key = probe.store()
    response = probe.send(get_request(probe.download(key, method="HEAD")))
    has_id = response.headers.get("x-amz-meta-grant-id", "").endswith(".0")
    return Outcome(response, "" if has_id else "the object does not show its grant id")


def _get_with_owner(probe: Probe) -> Outcome:
    return Outcome(probe.send(get_request(probe.download(probe.store(), check_owner=True))))


def _get_from_stranger(probe: Probe) -> Outcome:
    owner = next(account for account in _STRANGERS if account != probe.grants.bucket.owner)
    terms = Download(bucket=probe.grants.bucket.name, expires_in=VALID_SECONDS, check_owner=True)
    grant = probe.grants.issue_for_owner(terms, Item(key=probe.store()), owner)
    return Outcome(probe.send(get_request(grant)))


def _get_without_owner_header(probe: Probe) -> Outcome:
    grant = probe.download(probe.store(), check_owner=True)
    return Outcome(probe.send(StorageRequest("GET", grant.url)))


def _with_url(change: Callable[[str], str]) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        grant = probe.download(probe.store(), filename="report.txt")
        return Outcome(probe.send(StorageRequest("GET", change(grant.url))))

    return act


def _get_another_key(probe: Probe) -> Outcome:
    key, other_key = probe.store(), probe.store()
    url = probe.download(key).url
    path, _, query = url.partition("?")
    other_path = path.removesuffix(key.rpartition("/")[2]) + other_key.rpartition("/")[2]
    return Outcome(probe.send(StorageRequest("GET", f"{other_path}?{query}")))


def _with_method(method: str) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        body = BODY if method == "PUT" else None
        url = probe.download(probe.store()).url
        return Outcome(probe.send(StorageRequest(method, url, body=body)))

    return act


def wait_for_end(probe: Probe, grant: Grant) -> None:
    """Wait until a grant has expired, by the clock of this machine."""
    left = (grant.expires_at - datetime.now(UTC)).total_seconds() + EXPIRED_SECONDS
    probe.sleep(max(0.0, left))


def _get_after_end(probe: Probe) -> Outcome:
    grant = probe.download(probe.store(), expires_in=1)
    wait_for_end(probe, grant)
    return Outcome(probe.send(get_request(grant)))


def _misuse(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    return LiveCheck("link", name, is_misuse=True, act=act, needs=("link", "GET"))


LINK_CHECKS = (
    LiveCheck("link", "GET", is_misuse=False, act=_get),
    LiveCheck("link", "HEAD", is_misuse=False, act=_head),
    LiveCheck(
        "link",
        "GET that names the bucket's owner",
        is_misuse=False,
        act=_get_with_owner,
        condition=needs_owner,
    ),
    _misuse("of another object", _get_another_key),
    _misuse(
        "with another file name",
        _with_url(lambda url: with_parameter(url, "response-content-disposition", "inline")),
    ),
    _misuse(
        "with a parameter added",
        _with_url(lambda url: with_parameter(url, "response-cache-control", "no-store")),
    ),
    _misuse("with a later end", _with_url(lambda url: with_parameter(url, "X-Amz-Expires", "900"))),
    _misuse("without its grant id", _with_url(lambda url: without_parameters(url, "x-grant-id"))),
    _misuse("with another signature", _with_url(with_changed_signature)),
    _misuse("without a signature", _with_url(lambda url: without_parameters(url, "X-Amz-S*"))),
    _misuse("without any parameter", _with_url(lambda url: url.partition("?")[0])),
    _misuse("used for PUT", _with_method("PUT")),
    _misuse("used for DELETE", _with_method("DELETE")),
    _misuse("after its end", _get_after_end),
    _misuse("that names another owner", _get_from_stranger),
    _misuse("without its owner header", _get_without_owner_header)._replace(condition=needs_owner),
    LiveCheck(
        "session",
        "link without its session token",
        is_misuse=True,
        act=_with_url(lambda url: without_parameters(url, "X-Amz-Security-Token")),
        needs=("link", "GET"),
        condition=needs_role,
    ),
)
