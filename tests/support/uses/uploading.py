"""Uploads to real storage with issued grants, as clients make them."""

from typing import Any

from tests.support.builders.messages import grant_message
from tests.support.builders.services import InProcessService
from tests.support.s3.http_requests import Request, Response, completion, post, put, send
from valetkey.wire.replies import Grant


class Uploader:
    """Requests grants from a service, and uses them."""

    def __init__(self, service: InProcessService) -> None:
        self._service = service

    def request(self, kind: str, *keys: str, size: int = 10, **terms: Any) -> list[Grant]:
        """Request grants of one kind; size is that of each item, except of forms."""
        grant = {"kind": kind, "bucket": "demo", "expires_in": 300, "max_size": 1_000} | terms
        if kind == "put":
            grant = {"overwrite": True} | grant
        message = grant_message(keys, grant=grant)
        sizes = {} if kind == "upload" else {"size": size}
        outcome = self._service.issue(message | {"items": [{"key": k} | sizes for k in keys]})
        assert outcome["status"] == "issued", outcome["refusal"]
        return [Grant(**item) for item in outcome["items"]]

    def form(self, key: str, **terms: Any) -> Grant:
        """Request one form of at most 1,000 bytes."""
        return self.request("upload", key, **terms)[0]

    def put(self, key: str, size: int = 10, **terms: Any) -> Grant:
        """Request one put of an exact size."""
        return self.request("put", key, size=size, **terms)[0]

    def multipart(self, key: str, size: int = 10, **terms: Any) -> Grant:
        """Request one multipart upload."""
        return self.request("multipart", key, size=size, **terms)[0]

    def one_of_each_kind(self) -> list[Grant]:
        """Store an image with a form, a put and a multipart upload: 5, 3 and 12 bytes."""
        grants = [
            self.form("acme/a form & more.png", content_type="image/png"),
            self.put("acme/put", 3, content_type="image/png"),
            self.multipart("acme/parts", 12, content_type="image/png"),
        ]
        for grant, body in zip(grants, (b"12345", b"123", b"123456789012"), strict=True):
            self.store(grant, body)
        return grants

    def store(self, grant: Grant, body: bytes, file_name: str = "upload.bin") -> None:
        """Use a grant of any kind to store an object."""
        assert self.send(grant, body, file_name).is_success

    def send(self, grant: Grant, body: bytes, file_name: str = "upload.bin") -> Response:
        """Send the request of a grant; or those of a multipart upload."""
        if grant.multipart is not None:
            return send(completion(grant, self.send_part(grant, body)))
        if grant.method == "PUT":
            return send(put(grant, body))
        form = post(grant, body)
        return send(Request("POST", form.url, form=form.form, file_name=file_name))

    def send_part(self, grant: Grant, body: bytes) -> str:
        """Upload the first part of a multipart upload; return its ETag."""
        terms = {"kind": "parts", "bucket": "demo", "expires_in": 300, "of": grant.id}
        message = grant_message([grant.key], grant=terms)
        outcome = self._service.issue(message | {"items": [{"key": grant.key, "part": 1}]})
        response = send(put(Grant(**outcome["items"][0]), body))
        assert response.is_success
        etag: str = response.headers["etag"]
        return etag

    def abort(self, grant: Grant) -> None:
        """Abort a multipart upload, as its client may."""
        assert grant.multipart is not None
        assert send(Request("DELETE", grant.multipart.abort_url)).is_success
