"""Presigned URLs by botocore's own signer, for targets that UrlSigner does not sign identically.

It takes about twenty times as long. It is used for endpoints whose host botocore rewrites before
signing, and would be used for any target that a new botocore signs differently.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.utils import percent_encode_sequence

from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.urls import EMPTY, SignedUrl, SignItem


class BotoUrlSigner:
    """Signs the URLs of one batch, with the interface of `UrlSigner`."""

    def __init__(  # noqa: PLR0913 - each is part of the signature, and named
        self,
        credentials: Credentials,
        target: Target,
        *,
        method: str,
        issued_at: datetime,
        expires_in: int,
        query: Mapping[str, str] = EMPTY,
        headers: Mapping[str, str] = EMPTY,
    ) -> None:
        keys = ReadOnlyCredentials(
            credentials.access_key, credentials.secret_key, credentials.token
        )
        self._auth: Any = S3SigV4QueryAuth(keys, target.service, target.region, expires_in)
        self._timestamp = issued_at.astimezone(UTC).strftime(SIGV4_TIMESTAMP)
        self._address = f"{target.scheme}://{target.host}{target.prefix}"
        self._method = method
        self._query = query
        self._headers = headers

    def sign(
        self, key: str, query: Mapping[str, str] = EMPTY, headers: Mapping[str, str] = EMPTY
    ) -> SignedUrl:
        """Sign one item; its parameters and headers replace the batch's of the same name."""
        params = sorted({**self._query, **query}.items())
        request: Any = AWSRequest(
            method=self._method,
            url=f"{self._address}{quote(key)}?{percent_encode_sequence(params)}",
            headers={**self._headers, **headers},
        )
        request.context["timestamp"] = self._timestamp
        # The steps of add_auth, which would read the clock: a grant that is signed again keeps the
        # time at which it was issued.
        self._auth._modify_request_before_signing(request)  # noqa: SLF001 - see above
        text = self._auth.string_to_sign(request, self._auth.canonical_request(request))
        signature: str = self._auth.signature(text, request)
        self._auth._inject_signature_to_request(request, signature)  # noqa: SLF001 - see above
        return SignedUrl(request.url, signature)

    def with_item_parameter(self, name: str) -> SignItem:
        """Prepare to sign items that differ in the key and in one parameter only."""

        def sign(key: str, value: str) -> tuple[str, str]:
            signed = self.sign(key, {name: value})
            return signed.url, signed.signature

        return sign
