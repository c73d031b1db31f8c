"""Checks of POST forms: their conditions, and their signature."""

from collections.abc import Callable

from worker.net.storage_requests import StorageRequest, StorageResponse
from worker.usecases.live_checks.check import LiveCheck, needs_forms
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.grants import CONTENT_TYPE_FAMILY
from worker.usecases.live_checks.link_checks import wait_for_end
from worker.usecases.live_checks.probe import BODY, Probe, form_request
from worker.usecases.live_checks.put_checks import OTHER_BODY, body_checksum
from worker.usecases.live_checks.tampering import change_last, with_field


def _post(probe: Probe) -> Outcome:
    key = probe.new_key()
    return probe.read_back(probe.send(form_request(probe.upload(key))), key, BODY)


def _post_with_checksum(probe: Probe) -> Outcome:
    key = probe.new_key()
    response = probe.send(form_request(probe.upload(key, body_checksum())))
    return probe.read_back(response, key, BODY)


def _post_other_bytes(probe: Probe) -> Outcome:
    grant = probe.upload(probe.new_key(), body_checksum())
    return Outcome(probe.send(form_request(grant, OTHER_BODY)))


def _post_after_end(probe: Probe) -> Outcome:
    grant = probe.upload(probe.new_key(), expires_in=1)
    wait_for_end(probe, grant)
    return Outcome(probe.send(form_request(grant)))


def _post_chosen_type(probe: Probe) -> Outcome:
    key = probe.new_key()
    return probe.read_back(_send_with_type(probe, key, "video/mp4"), key, BODY)


def _post_list_of_types(probe: Probe) -> Outcome:
    """Send a type of the form's family, and after it one that browsers run scripts of."""
    return Outcome(_send_with_type(probe, probe.new_key(), "video/mp4,text/html"))


def _send_with_type(probe: Probe, key: str, content_type: str) -> StorageResponse:
    """Post a form that leaves the choice within a family of content types to the client."""
    grant = probe.upload(key, content_type=CONTENT_TYPE_FAMILY)
    form = with_field(form_request(grant).form, "Content-Type", content_type)
    return probe.send(StorageRequest("POST", grant.url, form=form))


def _with_file(body: bytes) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        return Outcome(probe.send(form_request(probe.upload(probe.new_key()), body)))

    return act


def _with_field(name: str, value: str | None = None) -> Callable[[Probe], Outcome]:
    """Change a field to a value, or its last character."""

    def act(probe: Probe) -> Outcome:
        grant = probe.upload(probe.new_key())
        new_value = change_last(grant.fields[name]) if value is None else value
        form = with_field(form_request(grant).form, name, new_value)
        return Outcome(probe.send(StorageRequest("POST", grant.url, form=form)))

    return act


def _post_another_key(probe: Probe) -> Outcome:
    grant = probe.upload(probe.new_key())
    form = with_field(form_request(grant).form, "key", probe.new_key())
    return Outcome(probe.send(StorageRequest("POST", grant.url, form=form)))


def _use(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    return LiveCheck("form", name, is_misuse=False, act=act, condition=needs_forms)


def _misuse(name: str, act: Callable[[Probe], Outcome], needs: str = "POST") -> LiveCheck:
    return LiveCheck("form", name, True, act, ("form", needs), needs_forms)


FORM_CHECKS = (
    _use("POST", _post),
    _use("POST with a SHA-256", _post_with_checksum),
    _use("POST with a chosen content type", _post_chosen_type),
    _misuse("of a larger file", _with_file(BODY * 3)),
    _misuse("of a smaller file", _with_file(BODY[:9])),
    _misuse("of another content type", _with_field("Content-Type", "text/html")),
    _misuse("of a list of content types", _post_list_of_types, "POST with a chosen content type"),
    _misuse("of other bytes than its SHA-256", _post_other_bytes, "POST with a SHA-256"),
    _misuse("with another key", _post_another_key),
    _misuse("with metadata added", _with_field("x-amz-meta-added", "yes")),
    _misuse("with an ACL added", _with_field("acl", "public-read")),
    _misuse("with another grant id", _with_field("x-amz-meta-grant-id")),
    _misuse("with another signature", _with_field("x-amz-signature")),
    _misuse("after its end", _post_after_end),
)
