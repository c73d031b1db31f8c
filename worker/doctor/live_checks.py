"""The live checks: uses and misuses of links, PUTs, forms and multipart uploads."""

import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from valetkey.wire.messages import Item
from valetkey.wire.replies import Grant
from valetkey.wire.terms import Checksum, Download
from worker.aws.storage_requests import StorageRequest, StorageResponse
from worker.core.policy_rules import STORED_METADATA_BYTES
from worker.doctor.live_probe import (
    BODY,
    CONTENT_TYPE_FAMILY,
    Outcome,
    Probe,
    form_request,
    get_request,
    put_request,
)

FormFields = Iterable[tuple[str, str | bytes]]


def without_parameters(url: str, *names: str) -> str:
    """Remove parameters of the query by name; a name that ends in `*` is a prefix."""
    path, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and not _is_named(pair, names)]
    return f"{path}?{'&'.join(kept)}" if kept else path


def with_parameter(url: str, name: str, value: str) -> str:
    """Replace or append a parameter of the query."""
    rest = without_parameters(url, name)
    return f"{rest}{'&' if '?' in rest else '?'}{name}={value}"


def with_changed_signature(url: str) -> str:
    """Change the last character of the signature of a URL."""
    _, _, signature = url.partition("X-Amz-Signature=")
    signature = signature.partition("&")[0]
    return with_parameter(url, "X-Amz-Signature", change_last(signature))


def change_last(text: str) -> str:
    """Replace the last character of a text by another digit."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def with_field(form: FormFields, name: str, value: str) -> list[tuple[str, str | bytes]]:
    """Replace a field of a form, or add it before the file."""
    fields = [(field, old) for field, old in form if field.lower() != name.lower()]
    return [*fields[:-1], (name, value), fields[-1]]


def _is_named(pair: str, names: Iterable[str]) -> bool:
    name = pair.partition("=")[0]
    return any(
        name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted for wanted in names
    )


GrantName = Literal["link", "put", "form", "multipart", "session"]
ProfileField = Literal["post", "owner", "role_arn"]
WITHOUT_FIELD: dict[ProfileField, str] = {
    "post": "the profile has post = false",
    "owner": "the profile has no owner",
    "role_arn": "the profile has no role_arn",
}
"""Why checks are not tried that need a field of the bucket profile."""


class LiveCheck(NamedTuple):
    """One request that storage has to accept (a use), or to refuse (a misuse).

    name: unique among the checks of the same grant.
    act: sends it, after what it requires, and returns storage's response.
    needs: the use without which a refusal of this misuse proves nothing, as grant and name.
    profile_field: a field of the bucket profile without which it is not tried.
    """

    grant: GrantName
    name: str
    is_misuse: bool
    act: Callable[[Probe], Outcome]
    needs: tuple[GrantName, str] | None = None
    profile_field: ProfileField | None = None


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
    terms = Download(**probe.grants.common_terms, check_owner=True)
    grant = probe.grants.issue(terms, Item(key=probe.store()), owner=owner)
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


def _wait_for_end(grant: Grant) -> None:
    """Wait until a grant has expired, by the clock of this machine."""
    left = (grant.expires_at - datetime.now(UTC)).total_seconds() + EXPIRED_SECONDS
    time.sleep(max(0.0, left))


def _get_after_end(probe: Probe) -> Outcome:
    grant = probe.download(probe.store(), expires_in=1)
    _wait_for_end(grant)
    return Outcome(probe.send(get_request(grant)))


def _link_misuse(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    return LiveCheck("link", name, is_misuse=True, act=act, needs=("link", "GET"))


LINK_CHECKS = (
    LiveCheck("link", "GET", is_misuse=False, act=_get),
    LiveCheck("link", "HEAD", is_misuse=False, act=_head),
    LiveCheck(
        "link",
        "GET that names the bucket's owner",
        is_misuse=False,
        act=_get_with_owner,
        profile_field="owner",
    ),
    _link_misuse("of another object", _get_another_key),
    _link_misuse(
        "with another file name",
        _with_url(lambda url: with_parameter(url, "response-content-disposition", "inline")),
    ),
    _link_misuse(
        "with a parameter added",
        _with_url(lambda url: with_parameter(url, "response-cache-control", "no-store")),
    ),
    _link_misuse(
        "with a later end", _with_url(lambda url: with_parameter(url, "X-Amz-Expires", "900"))
    ),
    _link_misuse(
        "without its grant id", _with_url(lambda url: without_parameters(url, "x-grant-id"))
    ),
    _link_misuse("with another signature", _with_url(with_changed_signature)),
    _link_misuse("without a signature", _with_url(lambda url: without_parameters(url, "X-Amz-S*"))),
    _link_misuse("without any parameter", _with_url(lambda url: url.partition("?")[0])),
    _link_misuse("used for PUT", _with_method("PUT")),
    _link_misuse("used for DELETE", _with_method("DELETE")),
    _link_misuse("after its end", _get_after_end),
    _link_misuse("that names another owner", _get_from_stranger),
    _link_misuse("without its owner header", _get_without_owner_header)._replace(
        profile_field="owner"
    ),
    _link_misuse(
        "link without its session token",
        _with_url(lambda url: without_parameters(url, "X-Amz-Security-Token")),
    )._replace(grant="session", profile_field="role_arn"),
)


OTHER_BODY = BODY.swapcase()
"""As many other bytes."""

# A grant id is a UUID, a dot and an item's number, under the name grant-id.
_GRANT_ID_BYTES = len("grant-id") + 36 + len(".0")
_METADATA = {"padding": "x" * (STORED_METADATA_BYTES - _GRANT_ID_BYTES - len("padding"))}
# Twice the limit, so that it makes no difference what else storage counts.
_TOO_MUCH_METADATA = _METADATA | {"more": "x" * STORED_METADATA_BYTES}


_CHECKSUM = Checksum(algorithm="sha256", value=b64encode(sha256(BODY).digest()).decode())


def _put(checksum: Checksum | None = None, **terms: Any) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        key = probe.new_key()
        response = probe.send(put_request(probe.put(key, checksum, **terms)))
        return probe.read_back(response, key, BODY)

    return act


def _put_again(probe: Probe) -> Outcome:
    grant = probe.put(probe.new_key(), overwrite=False)
    probe.require("the first PUT", probe.send(put_request(grant)))
    return Outcome(probe.send(put_request(grant, OTHER_BODY)))


def _put_over_object(probe: Probe) -> Outcome:
    grant = probe.put(probe.store(), overwrite=False)
    headers = {name: value for name, value in grant.headers.items() if name != "if-none-match"}
    return Outcome(probe.send(StorageRequest("PUT", grant.url, headers, OTHER_BODY)))


def _put_other_bytes(probe: Probe) -> Outcome:
    grant = probe.put(probe.new_key(), _CHECKSUM)
    return Outcome(probe.send(put_request(grant, OTHER_BODY)))


def _with_metadata(metadata: Mapping[str, str]) -> Callable[[Probe], Outcome]:
    """Send metadata that the service refuses: it keeps the bytes of the longest grant id free."""

    def act(probe: Probe) -> Outcome:
        item, terms = Item(key=probe.new_key(), size=len(BODY)), probe.put_terms(metadata=metadata)
        grant = probe.grants.sign_unchecked(probe.put_terms(), terms, item)
        return Outcome(probe.send(put_request(grant)))

    return act


def _put_outside_prefix(probe: Probe) -> Outcome:
    (prefix,) = probe.grants.prefixes
    item = Item(key=f"{prefix.removesuffix('/')}-outside.txt", size=len(BODY))
    grant = probe.grants.sign_unchecked(probe.put_terms(), probe.put_terms(), item)
    return Outcome(probe.send(put_request(grant)))


def _with_change(body: bytes = BODY, headers: Mapping[str, str] = {}) -> Callable[[Probe], Outcome]:
    """Send a body or headers that the grant does not allow."""

    def act(probe: Probe) -> Outcome:
        return Outcome(probe.send(put_request(probe.put(probe.new_key()), body, headers)))

    return act


def _put_copy(probe: Probe) -> Outcome:
    source = f"/{probe.grants.bucket.bucket}/{probe.store()}"
    grant = probe.put(probe.new_key())
    return Outcome(probe.send(put_request(grant, headers={"x-amz-copy-source": source})))


def _put_misuse(name: str, act: Callable[[Probe], Outcome], needs: str = "PUT") -> LiveCheck:
    return LiveCheck("put", name, is_misuse=True, act=act, needs=("put", needs))


PUT_CHECKS = (
    LiveCheck("put", "PUT", is_misuse=False, act=_put()),
    LiveCheck("put", "PUT of a new object", is_misuse=False, act=_put(overwrite=False)),
    LiveCheck("put", "PUT with a SHA-256", is_misuse=False, act=_put(_CHECKSUM)),
    LiveCheck("put", "PUT with 2,048 bytes of metadata", False, _with_metadata(_METADATA)),
    _put_misuse("of a larger file", _with_change(BODY * 2)),
    _put_misuse("of a smaller file", _with_change(BODY[:-1])),
    _put_misuse("of another content type", _with_change(headers={"content-type": "text/html"})),
    _put_misuse("of other bytes than its SHA-256", _put_other_bytes, "PUT with a SHA-256"),
    _put_misuse("over an object that exists", _put_again, "PUT of a new object"),
    _put_misuse("without If-None-Match", _put_over_object, "PUT of a new object"),
    _put_misuse("with metadata added", _with_change(headers={"x-amz-meta-added": "yes"})),
    _put_misuse("with an ACL added", _with_change(headers={"x-amz-acl": "public-read"})),
    _put_misuse("as a copy of another object", _put_copy),
    _put_misuse("with over 2,048 bytes of metadata", _with_metadata(_TOO_MUCH_METADATA)),
    _put_misuse("PUT outside of its prefix", _put_outside_prefix)._replace(
        grant="session", profile_field="role_arn"
    ),
)


def _post(checksum: Checksum | None = None) -> Callable[[Probe], Outcome]:
    def act(probe: Probe) -> Outcome:
        key = probe.new_key()
        response = probe.send(form_request(probe.upload(key, checksum)))
        return probe.read_back(response, key, BODY)

    return act


def _post_other_bytes(probe: Probe) -> Outcome:
    grant = probe.upload(probe.new_key(), _CHECKSUM)
    return Outcome(probe.send(form_request(grant, OTHER_BODY)))


def _post_after_end(probe: Probe) -> Outcome:
    grant = probe.upload(probe.new_key(), expires_in=1)
    _wait_for_end(grant)
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


def _form_use(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    return LiveCheck("form", name, is_misuse=False, act=act, profile_field="post")


def _form_misuse(name: str, act: Callable[[Probe], Outcome], needs: str = "POST") -> LiveCheck:
    return LiveCheck("form", name, True, act, ("form", needs), "post")


FORM_CHECKS = (
    _form_use("POST", _post()),
    _form_use("POST with a SHA-256", _post(_CHECKSUM)),
    _form_use("POST with a chosen content type", _post_chosen_type),
    _form_misuse("of a larger file", _with_file(BODY * 3)),
    _form_misuse("of a smaller file", _with_file(BODY[:9])),
    _form_misuse("of another content type", _with_field("Content-Type", "text/html")),
    _form_misuse(
        "of a list of content types", _post_list_of_types, "POST with a chosen content type"
    ),
    _form_misuse("of other bytes than its SHA-256", _post_other_bytes, "POST with a SHA-256"),
    _form_misuse("with another key", _post_another_key),
    _form_misuse("with metadata added", _with_field("x-amz-meta-added", "yes")),
    _form_misuse("with an ACL added", _with_field("acl", "public-read")),
    _form_misuse("with another grant id", _with_field("x-amz-meta-grant-id")),
    _form_misuse("with another signature", _with_field("x-amz-signature")),
    _form_misuse("after its end", _post_after_end),
)


_FIRST_PART = b"a" * 5 * 1024**2  # AWS requires that of each part but the last


def _complete_upload(probe: Probe) -> Outcome:
    key = probe.new_key()
    grant, upload = probe.start_multipart(key, len(_FIRST_PART) + len(BODY))
    etags = []
    for number, body in ((1, _FIRST_PART), (2, BODY)):
        response = probe.send(put_request(probe.part(grant, upload, number), body))
        probe.require(f"part {number}", response)
        etags.append(response.headers.get("etag", ""))
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    headers = {"content-type": "application/xml"}
    response = probe.send(StorageRequest("POST", grant.url, headers, body))
    if response.is_success:
        probe.leftovers.uploads.pop(upload.upload.upload_id, None)
    return probe.read_back(response, key, _FIRST_PART + BODY)


def _abort_request(grant: Grant) -> StorageRequest:
    url = grant.multipart.abort_url if grant.multipart else ""
    return StorageRequest("DELETE", url)


def _abort_upload(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    probe.require("part 1", probe.send(put_request(probe.part(grant, upload, 1))))
    return Outcome(probe.send(_abort_request(grant)))


def _part_after_abort(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    part = probe.part(grant, upload, 1)
    probe.require("the abort", probe.send(_abort_request(grant)))
    return Outcome(probe.send(put_request(part)))


def _larger_part(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    return Outcome(probe.send(put_request(probe.part(grant, upload, 1), BODY * 2)))


def _another_part(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    part = probe.part(grant, upload, 1)
    url = with_parameter(part.url, "partNumber", "2")
    headers = {**part.headers, "content-length": str(len(BODY))}
    return Outcome(probe.send(StorageRequest("PUT", url, headers, BODY)))


def _multipart_misuse(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    needs: tuple[GrantName, str] = ("multipart", "one part, aborted")
    return LiveCheck("multipart", name, is_misuse=True, act=act, needs=needs)


MULTIPART_CHECKS = (
    LiveCheck("multipart", "two parts, completed", is_misuse=False, act=_complete_upload),
    LiveCheck("multipart", "one part, aborted", is_misuse=False, act=_abort_upload),
    _multipart_misuse("larger part", _larger_part),
    _multipart_misuse("another part", _another_part),
    _multipart_misuse("part after the abort", _part_after_abort),
)
