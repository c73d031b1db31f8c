"""How fast one URL or form is signed, against boto3, its rivals, and the floor."""

import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import boto3
from botocore.config import Config

from bench import peers
from bench.comparing import Compared, compared, in_turns, seconds
from bench.figures import Measured
from worker.core.signing.forms import Condition, FormSigner
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.urls import UrlSigner

ROUNDS = 9
KEYS = tuple(f"2026/11/u-{number}.pdf" for number in range(10_000))
_FEW = 1_000  # of them, where one takes others a tenth of a millisecond

_PLACE = peers.Place(
    Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    bucket="reports",
    region="eu-west-1",
    expires_in=3_600,
)
_TARGET = Target("https", f"{_PLACE.bucket}.{_PLACE.host}", "/", _PLACE.region)
_GRANT_ID = "019ab7c4-5f60-7c3a-9d5e-0123456789ab.42"
_TYPE = "application/pdf"
_CONDITIONS: list[Condition] = [["content-length-range", 1_000, 500_000]]

Sign = Callable[[str], object]


def measure(keys: Sequence[str] = KEYS, rounds: int = ROUNDS) -> Measured:
    """Every ratio, and the microseconds for one key; None against who is not installed."""
    few = keys[:_FEW]
    measured: Measured = {}
    for name, pair in {
        "sign_get": _get(),
        "sign_get_with_id": _get_with_id(),
        "sign_put": _put(),
        "sign_post": _post(),
    }.items():
        found = _compare(_each(pair[0], few), _each(pair[1], few), rounds)
        measured[f"{name}_vs_boto3"] = found.ratio
        measured[f"{name}_us"] = found.ours / len(few) * 1e6
        measured[f"{name}_boto3_us"] = found.theirs / len(few) * 1e6
    measured["sign_get_vs_floor"] = 1 / _compare(*_floor(few), rounds).ratio
    return measured | _against_peers(keys, rounds)


def boto3_client() -> Any:
    """Make a client once, as whoever signs in a loop should."""
    return boto3.Session().client(
        "s3",
        region_name=_PLACE.region,
        aws_access_key_id=_PLACE.credentials.access_key,
        aws_secret_access_key=_PLACE.credentials.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}),
    )


def boto3_get(client: Any) -> Sign:
    """Sign a GET by boto3."""
    return lambda key: client.generate_presigned_url(
        "get_object", Params={"Bucket": _PLACE.bucket, "Key": key}, ExpiresIn=_PLACE.expires_in
    )


def _get() -> tuple[Sign, Sign]:
    return _urls("GET").sign, boto3_get(boto3_client())


def _get_with_id() -> tuple[Sign, Sign]:
    urls, client = _urls("GET"), boto3_client()
    client.meta.events.register("before-sign.s3", _append_grant_id)
    return lambda key: urls.sign(key, {"x-grant-id": _GRANT_ID}), boto3_get(client)


def _append_grant_id(request: Any, **_: Any) -> None:
    request.url += f"?x-grant-id={_GRANT_ID}"


def _put() -> tuple[Sign, Sign]:
    urls, client = _urls("PUT", {"Content-Type": _TYPE, "If-None-Match": "*"}), boto3_client()
    common = {"Bucket": _PLACE.bucket, "ContentType": _TYPE, "IfNoneMatch": "*"}
    params = {**common, "ContentLength": 4_096}
    return (
        lambda key: urls.sign(key, headers={"Content-Length": "4096"}),
        lambda key: client.generate_presigned_url(
            "put_object", Params={**params, "Key": key}, ExpiresIn=_PLACE.expires_in
        ),
    )


def _post() -> tuple[Sign, Sign]:
    client, own = boto3_client(), {"x-amz-meta-grant-id": _GRANT_ID}
    forms = FormSigner(
        _PLACE.credentials,
        _TARGET,
        bucket=_PLACE.bucket,
        issued_at=datetime.now(UTC),
        expires_in=_PLACE.expires_in,
        fields={"Content-Type": _TYPE},
        conditions=_CONDITIONS,
    )
    fields = {"Content-Type": _TYPE, **own}

    def theirs(key: str) -> None:
        conditions = [*_CONDITIONS, {"Content-Type": _TYPE}, own]  # boto3 adds to the list it gets
        client.generate_presigned_post(_PLACE.bucket, key, fields, conditions, _PLACE.expires_in)

    return lambda key: forms.sign(key, own), theirs


def _floor(keys: Sequence[str]) -> tuple[peers.SignAll, peers.SignAll]:
    """A GET, and one SHA-256 and one HMAC-SHA256 of as many bytes."""
    urls = _urls("GET")
    around_url = len("https://?&X-Amz-Signature=") + 64
    around_request = len("GET\n\n\nhost:\n\nhost\nUNSIGNED-PAYLOAD")
    request = b"x" * (len(urls.sign(keys[0]).url) - around_url + around_request)
    scope = f"AWS4-HMAC-SHA256\n20261124T230007Z\n20261124/{_PLACE.region}/s3/aws4_request\n"
    to_sign, day_key = b"x" * (len(scope) + 64), b"x" * 32

    def floor(_key: str) -> None:
        sha256(request).hexdigest()
        hmac.digest(day_key, to_sign, "sha256")

    return _each(urls.sign, keys), _each(floor, keys)


def _against_peers(keys: Sequence[str], rounds: int) -> Measured:
    sign = _urls("GET").sign
    measured: Measured = {}
    for name, peer in peers.PEERS.items():
        try:
            theirs = peer(_PLACE, keys)
        except ModuleNotFoundError:
            measured[f"sign_get_vs_{name}"] = None
        else:
            found = _compare(lambda: [sign(key).url for key in keys], theirs, rounds)
            measured[f"sign_get_vs_{name}"] = found.ratio
    return measured


def _compare(ours: peers.SignAll, theirs: peers.SignAll, rounds: int) -> Compared:
    return compared(in_turns(lambda: seconds(ours), lambda: seconds(theirs), rounds))


def _each(sign: Sign, keys: Sequence[str]) -> peers.SignAll:
    return lambda: [sign(key) for key in keys]


def _urls(method: str, headers: dict[str, str] | None = None) -> UrlSigner:
    return UrlSigner(
        _PLACE.credentials,
        _TARGET,
        method=method,
        issued_at=datetime.now(UTC),
        expires_in=_PLACE.expires_in,
        headers=headers or {},
    )
