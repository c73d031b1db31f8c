"""How fast one URL or form is signed, against boto3 on a cached client and against the floor.

Both sides of a ratio run in turns in one process, A B A B, so that a busy machine slows both.
"""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from worker.core.forms import Condition, FormSigner
from worker.core.sigv4 import Credentials, Target
from worker.core.urls import UrlSigner

ROUNDS = 9
KEYS = [f"2026/11/u-{number}.pdf" for number in range(1_000)]

BUCKET, REGION = "reports", "eu-west-1"
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
TARGET = Target("https", f"{BUCKET}.s3.{REGION}.amazonaws.com", "/", REGION)
LIFE = 3_600  # seconds
GRANT_ID = "019ab7c4-5f60-7c3a-9d5e-0123456789ab-42"
TYPE = "application/pdf"
CONDITIONS: list[Condition] = [["content-length-range", 1_000, 500_000]]


class Compared(NamedTuple):
    """Medians over the rounds: microseconds for one key, and how many times longer theirs take."""

    ours: float
    theirs: float
    ratio: float


def sign_get_vs_boto3() -> Compared:
    """A presigned GET."""
    client, urls = _client(), _urls("GET")
    return _compare(
        urls.sign,
        lambda key: client.generate_presigned_url(
            "get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=LIFE
        ),
    )


def sign_get_with_id_vs_boto3() -> Compared:
    """A presigned GET with x-grant-id in it, which boto3 needs a handler for."""
    client, urls = _client(), _urls("GET")
    client.meta.events.register("before-sign.s3", _append_grant_id)
    return _compare(
        lambda key: urls.sign(key, {"x-grant-id": GRANT_ID}),
        lambda key: client.generate_presigned_url(
            "get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=LIFE
        ),
    )


def sign_put_vs_boto3() -> Compared:
    """A presigned PUT with three signed headers, one of them the item's own."""
    client, urls = _client(), _urls("PUT", {"Content-Type": TYPE, "If-None-Match": "*"})
    params = {"Bucket": BUCKET, "ContentType": TYPE, "IfNoneMatch": "*", "ContentLength": 4_096}
    return _compare(
        lambda key: urls.sign(key, headers={"Content-Length": "4096"}),
        lambda key: client.generate_presigned_url(
            "put_object", Params={**params, "Key": key}, ExpiresIn=LIFE
        ),
    )


def sign_post_vs_boto3() -> Compared:
    """A presigned form with a size range, a content type and a grant id."""
    client, own = _client(), {"x-amz-meta-grant-id": GRANT_ID}
    forms = FormSigner(
        CREDENTIALS,
        TARGET,
        bucket=BUCKET,
        issued_at=datetime.now(UTC),
        expires_in=LIFE,
        fields={"Content-Type": TYPE},
        conditions=CONDITIONS,
    )
    fields = {"Content-Type": TYPE, **own}
    return _compare(
        lambda key: forms.sign(key, own),
        lambda key: client.generate_presigned_post(
            BUCKET, key, fields, [*CONDITIONS, {"Content-Type": TYPE}, own], LIFE
        ),
    )


def sign_get_vs_floor() -> Compared:
    """A presigned GET, against one SHA-256 and one HMAC-SHA256 of as many bytes."""
    urls = _urls("GET")
    around_url = len("https://?&X-Amz-Signature=") + 64
    around_request = len("GET\n\n\nhost:\n\nhost\nUNSIGNED-PAYLOAD")
    request = b"x" * (len(urls.sign(KEYS[0]).url) - around_url + around_request)
    scope = f"AWS4-HMAC-SHA256\n20261124T230007Z\n20261124/{REGION}/s3/aws4_request\n"
    to_sign, day_key = b"x" * (len(scope) + 64), b"x" * 32

    def floor(_key: str) -> None:
        sha256(request).hexdigest()
        hmac.digest(day_key, to_sign, "sha256")

    return _compare(urls.sign, floor)


def measure() -> dict[str, float]:
    """Every ratio, and the microseconds of ours. Against boto3 more is better, the floor is 1."""
    boto3_pairs = {
        "sign_get": sign_get_vs_boto3(),
        "sign_get_with_id": sign_get_with_id_vs_boto3(),
        "sign_put": sign_put_vs_boto3(),
        "sign_post": sign_post_vs_boto3(),
    }
    figures = {f"{name}_vs_boto3": pair.ratio for name, pair in boto3_pairs.items()}
    figures |= {f"{name}_us": pair.ours for name, pair in boto3_pairs.items()}
    figures |= {f"{name}_boto3_us": pair.theirs for name, pair in boto3_pairs.items()}
    return figures | {"sign_get_vs_floor": 1 / sign_get_vs_floor().ratio}


def _compare(ours: Callable[[str], Any], theirs: Callable[[str], Any]) -> Compared:
    runs = [(_microseconds(ours), _microseconds(theirs)) for _ in range(ROUNDS)]
    rounds = [(mine, other, other / mine) for mine, other in runs]
    return Compared(*map(median, zip(*rounds, strict=True)))


def _microseconds(sign: Callable[[str], Any]) -> float:
    start = perf_counter()
    for key in KEYS:
        sign(key)
    return (perf_counter() - start) / len(KEYS) * 1e6


def _urls(method: str, headers: dict[str, str] | None = None) -> UrlSigner:
    return UrlSigner(
        CREDENTIALS,
        TARGET,
        method=method,
        issued_at=datetime.now(UTC),
        expires_in=LIFE,
        headers=headers or {},
    )


def _client() -> Any:
    return boto3.Session().client(
        "s3",
        region_name=REGION,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}),
    )


def _append_grant_id(request: Any, **_: Any) -> None:
    request.url += f"?x-grant-id={GRANT_ID}"
