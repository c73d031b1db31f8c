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

FILENAME_VARIABLE = "${filename}"
"""Storage replaces this in the fields of a form by the name of the file (RESTObjectPOST.html)."""


@dataclass(frozen=True, slots=True)
class SignedForm:
    """The URL to POST to, the fields to send before the file, and the signature in hexadecimal.

    The fields are a bearer secret and do not appear in the repr. The URL alone permits nothing.
    """

    url: str
    fields: dict[str, str] = field(repr=False)
    signature: str = field(repr=False)


class FormSigner:
    """Signs the forms of one batch.

    issued_at is an aware datetime, expires_in is in seconds. A client has to send exactly these
    fields. conditions are what storage checks in addition: `["content-length-range", 1, 500]`,
    `["starts-with", "$Content-Type", "image/"]`.

    The policy lists the conditions, one for each field, one for each field of the item, bucket,
    key, and those of the signature, in this order. boto3 called with the same Fields and
    Conditions writes the same bytes.
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
        self._sign = scope.policy_hmac().hexdigest
        # A form is sent to the bucket itself: no slash after its name, but never an empty path.
        self._url = f"{target.scheme}://{target.host}{target.prefix[:-1] or '/'}"
        self._fields = dict(fields)
        self._auth = {
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": scope.credential,
            "x-amz-date": scope.timestamp,
        }
        if credentials.token is not None:
            self._auth["x-amz-security-token"] = credentials.token
        expires_at = issued_at.astimezone(UTC) + timedelta(seconds=expires_in)
        self._expiration = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._conditions = [json.dumps(condition) for condition in conditions]
        self._field_conditions = _equality_conditions(fields)
        self._bucket = json.dumps({"bucket": bucket})
        self._auth_conditions = [json.dumps({name: value}) for name, value in self._auth.items()]

    def sign(self, key: str, fields: Mapping[str, str] = EMPTY) -> SignedForm:
        """Sign one item; its fields replace the batch's of the same name.

        If the key ends in `${filename}`, the client chooses that part, as with AWS and boto3.
        """
        field_conditions = self._field_conditions | _equality_conditions(fields)
        conditions = [
            *self._conditions,
            *field_conditions.values(),
            self._bucket,
            _key_condition(key),
            *self._auth_conditions,
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


def _equality_conditions(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: json.dumps({name: value}) for name, value in fields.items()}


def _key_condition(key: str) -> str:
    if key.endswith(FILENAME_VARIABLE):
        return json.dumps(["starts-with", "$key", key.removesuffix(FILENAME_VARIABLE)])
    return json.dumps({"key": key})
