"""Presigned POST forms by Signature Version 4, byte-equal to boto3's.

Source: AWS, "Authenticating Requests in Browser-Based Uploads Using POST"
(sigv4-authentication-HTTPPOST.html) and "POST Policy" (sigv4-HTTPPOSTConstructPolicy.html).
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from worker.core.signing.sigv4 import ALGORITHM, Credentials, SigningScope, Target
from worker.core.signing.urls import EMPTY

Condition: TypeAlias = Mapping[str, str] | Sequence[str | int]

_FILENAME = "${filename}"


@dataclass(frozen=True, slots=True)
class SignedForm:
    """Where to POST, the fields to send before the file, and the signature in hex.

    url alone opens nothing; the fields are a bearer secret, so they do not print.
    """

    url: str
    fields: dict[str, str] = field(repr=False)
    signature: str = field(repr=False)


class FormSigner:
    """Signs the forms of one batch.

    issued_at is aware, expires_in in seconds. fields are sent with every form and must arrive as
    they are; conditions are what else storage must check: `["content-length-range", 1, 500]`,
    `["starts-with", "$Content-Type", "image/"]`.

    The order of the policy: conditions, one for each field, one for each field of the item,
    bucket, key, and the signature's own. boto3 called with those Fields and Conditions writes the
    same bytes.
    """

    def __init__(  # noqa: PLR0913 - each is part of the signature, and named
        self,
        credentials: Credentials,
        target: Target,
        *,
        bucket: str,
        issued_at: datetime,
        expires_in: int,
        fields: Mapping[str, str] = EMPTY,
        conditions: Sequence[Condition] = (),
    ) -> None:
        scope = SigningScope(credentials, target, issued_at)
        self._sign = scope.of_policies().hexdigest
        # a form goes to the bucket itself: no slash after its name, but never no path at all
        self._url = f"{target.scheme}://{target.host}{target.prefix[:-1] or '/'}"
        self._fields = dict(fields)
        self._auth = {
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": scope.credential,
            "x-amz-date": scope.timestamp,
        }
        if credentials.token is not None:
            self._auth["x-amz-security-token"] = credentials.token
        end = issued_at.astimezone(UTC) + timedelta(seconds=expires_in)
        self._expiration = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._conditions = [json.dumps(condition) for condition in conditions]
        self._exact = _exact(fields)
        self._bucket = json.dumps({"bucket": bucket})
        self._signed = [json.dumps({name: value}) for name, value in self._auth.items()]

    def sign(self, key: str, fields: Mapping[str, str] = EMPTY) -> SignedForm:
        """Sign one item, whose own fields replace the batch's of the same name.

        A key that ends in `${filename}` lets the client choose that end, as at AWS and boto3.
        """
        exact = self._exact | _exact(fields)
        conditions = [
            *self._conditions,
            *exact.values(),
            self._bucket,
            _key_condition(key),
            *self._signed,
        ]
        document = (
            f'{{"expiration": "{self._expiration}", "conditions": [{", ".join(conditions)}]}}'
        )
        policy = b64encode(document.encode()).decode()
        signature = self._sign(policy)
        return SignedForm(
            self._url,
            {
                **self._fields,
                **fields,
                "key": key,
                **self._auth,
                "policy": policy,
                "x-amz-signature": signature,
            },
            signature,
        )


def _exact(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: json.dumps({name: value}) for name, value in fields.items()}


def _key_condition(key: str) -> str:
    if key.endswith(_FILENAME):
        return json.dumps(["starts-with", "$key", key.removesuffix(_FILENAME)])
    return json.dumps({"key": key})
