"""Presigned POST forms by Signature Version 4, byte-equal to boto3's.

Source: AWS, "Authenticating Requests in Browser-Based Uploads Using POST"
(sigv4-authentication-HTTPPOST.html) and "POST Policy" (sigv4-HTTPPOSTConstructPolicy.html).
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from worker.core.signing.sigv4 import ALGORITHM, Credentials, SigningScope, Target
from worker.core.signing.urls import EMPTY, SLOT, split_template

Condition: TypeAlias = Mapping[str, str] | Sequence[str | int]

FILENAME_VARIABLE = "${filename}"
"""Storage replaces this in the fields of a form by the name of the file (RESTObjectPOST.html)."""

_to_json = json.JSONEncoder().encode  # json.dumps, without its options, in half the time


@dataclass(slots=True)  # not frozen: creating it would take twice as long
class SignedForm:
    """The URL to POST to, the fields to send before the file, and the signature in hexadecimal.

    The fields are a bearer secret and do not appear in the repr. The URL alone permits nothing.
    """

    url: str
    fields: dict[str, str] = field(repr=False)
    signature: str = field(repr=False)


class _Layout(NamedTuple):
    """The policy and the fields of forms whose items have the same fields, and the slots of values.

    A policy has the key's condition in its last slot. The fields are in the order of boto3's.
    """

    policy: list[str]
    slots: list[tuple[int, str]]
    fields: dict[str, str]


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
        self._bucket = json.dumps({"bucket": bucket})
        self._layouts: dict[tuple[str, ...], _Layout] = {}

    def sign(self, key: str, fields: Mapping[str, str] = EMPTY) -> SignedForm:
        """Sign one item; its fields replace the batch's of the same name.

        If the key ends in `${filename}`, the client chooses that part, as with AWS and boto3.
        """
        names = tuple(fields)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = self._make_layout(names)
        document = layout.policy.copy()
        for slot, name in layout.slots:
            document[slot] = _to_json(fields[name])
        document[-2] = _key_condition(key)
        policy = b64encode("".join(document).encode()).decode()
        signature = self._sign(policy)
        form = layout.fields.copy()
        form.update(fields)
        form["key"] = key
        form["policy"] = policy
        form["x-amz-signature"] = signature
        return SignedForm(self._url, form, signature)

    def _make_layout(self, names: Sequence[str]) -> _Layout:
        values = {name: _to_json(value) for name, value in self._fields.items()}
        values |= dict.fromkeys(names, SLOT)
        conditions = [
            *self._conditions,
            *(f"{{{_to_json(name)}: {value}}}" for name, value in values.items()),
            self._bucket,
            SLOT,
            *(json.dumps({name: value}) for name, value in self._auth.items()),
        ]
        document = (
            f'{{"expiration": "{self._expiration}", "conditions": [{", ".join(conditions)}]}}'
        )
        item_names = [name for name, value in values.items() if value is SLOT]
        return _Layout(
            split_template(document, slots=len(item_names) + 1),
            [(2 * index + 1, name) for index, name in enumerate(item_names)],
            self._fields
            | dict.fromkeys([*names, "key"], "")
            | self._auth
            | {"policy": "", "x-amz-signature": ""},
        )


def _key_condition(key: str) -> str:
    if key.endswith(FILENAME_VARIABLE):
        return json.dumps(["starts-with", "$key", key.removesuffix(FILENAME_VARIABLE)])
    return f'{{"key": {_to_json(key)}}}'
