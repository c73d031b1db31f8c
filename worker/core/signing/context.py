"""Everything that the signatures of one chunk have in common, and the shape of a signed grant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from valetkey.wire.messages import Item
from worker.core.signing.multipart_plan import StartedUpload
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.urls import SupportsUrlSigning, UrlSigner
from worker.core.signing.validity import Validity

SignedGrant = tuple[dict[str, Any], bytes]
"""A grant as JSON values, and the digest of its signature, which may be stored."""

ItemSigner = Callable[[str, Item, StartedUpload], SignedGrant]
"""Signs one item: its grant id, the item, and the multipart upload that it belongs to."""


@dataclass(frozen=True, slots=True)
class SigningContext:
    """The bucket, target, credentials and validity that sign the grants of a chunk.

    bucket is the real bucket's name, owner the id of the AWS account that owns it. url_signer is
    UrlSigner, or a class with the same constructor where boto3 signs differently.
    """

    bucket: str
    owner: str | None
    target: Target
    credentials: Credentials
    validity: Validity
    url_signer: Callable[..., SupportsUrlSigning] = UrlSigner

    @property
    def owner_headers(self) -> dict[str, str]:
        """The header by which storage checks the owner of the bucket."""
        return {"x-amz-expected-bucket-owner": self.owner or ""}

    def signer_for(self, method: str, **common: Any) -> SupportsUrlSigning:
        """Prepare to sign URLs of one HTTP method; `common` are UrlSigner's query and headers."""
        return self.url_signer(
            self.credentials,
            self.target,
            method=method,
            issued_at=self.validity.issued_at,
            expires_in=self.validity.expires_in,
            **common,
        )

    def common_fields(self, method: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the fields that all grants of the chunk share."""
        fields = {
            "method": method,
            "expires_at": self.validity.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "limited_by": self.validity.limited_by,
        }
        return fields | ({"headers": headers} if headers else {})
