"""The time to sign one URL or form, compared with boto3, other libraries and a lower bound.

Signing only computes, in one thread, so its CPU time is compared: a round takes two milliseconds,
and another process takes as long if the machine is busy. Other libraries may have threads of their
own, and are compared by elapsed time.
"""

import gc
import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from time import process_time
from typing import Any

import boto3
from botocore.config import Config

from bench.comparison import Comparison, alternate, compare, elapsed_seconds, inverse
from bench.metrics import Measurements
from bench.other_signers import OTHER_SIGNERS, SignAll, SigningParameters
from valetkey.signing.sigv4 import Condition, Credentials, FormSigner, Target, UrlSigner

ROUNDS = 9
KEYS = tuple(f"2026/11/u-{number}.pdf" for number in range(10_000))
_SAMPLE_KEYS = 1_000  # used where a signature takes boto3 a tenth of a millisecond

_PARAMETERS = SigningParameters(
    Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    bucket="reports",
    region="eu-west-1",
    expires_in=3_600,
)
_TARGET = Target("https", f"{_PARAMETERS.bucket}.{_PARAMETERS.host}", "/", _PARAMETERS.region)
_GRANT_ID = "019ab7c4-5f60-7c3a-9d5e-0123456789ab.42"
_CONTENT_TYPE = "application/pdf"
_CONDITIONS: list[Condition] = [["content-length-range", 1_000, 500_000]]

Sign = Callable[[str], object]


def measure(keys: Sequence[str] = KEYS, rounds: int = ROUNDS) -> Measurements:
    """Measure all ratios, and the microseconds per key; None for libraries not installed."""
    sample = keys[:_SAMPLE_KEYS]
    measurements: Measurements = {}

    def per_key(seconds: float) -> float:
        return seconds / len(sample) * 1e6

    for name, (ours, theirs) in {
        "sign_get": _get_signers(),
        "sign_get_with_id": _get_with_id_signers(),
        "sign_put": _put_signers(),
        "sign_post": _post_signers(),
    }.items():
        comparison = _compare(_sign_each(ours, sample), _sign_each(theirs, sample), rounds)
        measurements[f"{name}_vs_boto3"] = comparison.ratio
        measurements[f"{name}_us"] = comparison.ours.map(per_key)
        measurements[f"{name}_boto3_us"] = comparison.theirs.map(per_key)
    floor = _compare(*_hash_signers(sample), rounds)
    measurements["sign_get_vs_floor"] = floor.ratio.map(inverse)
    return measurements | _compare_other_signers(keys, rounds)


def boto3_client() -> Any:
    """Return a client, to be created once and used for many signatures."""
    return boto3.Session().client(
        "s3",
        region_name=_PARAMETERS.region,
        aws_access_key_id=_PARAMETERS.credentials.access_key,
        aws_secret_access_key=_PARAMETERS.credentials.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}),
    )


def boto3_get(client: Any) -> Sign:
    """Return a function that signs a GET URL with boto3."""
    return lambda key: client.generate_presigned_url(
        "get_object",
        Params={"Bucket": _PARAMETERS.bucket, "Key": key},
        ExpiresIn=_PARAMETERS.expires_in,
    )


def _get_signers() -> tuple[Sign, Sign]:
    return _url_signer("GET").sign, boto3_get(boto3_client())


def _get_with_id_signers() -> tuple[Sign, Sign]:
    signer, client = _url_signer("GET"), boto3_client()
    client.meta.events.register("before-sign.s3", _append_grant_id)
    return lambda key: signer.sign(key, {"x-grant-id": _GRANT_ID}), boto3_get(client)


def _append_grant_id(request: Any, **_: Any) -> None:
    request.url += f"?x-grant-id={_GRANT_ID}"


def _put_signers() -> tuple[Sign, Sign]:
    client = boto3_client()
    signer = _url_signer("PUT", {"Content-Type": _CONTENT_TYPE, "If-None-Match": "*"})
    common = {"Bucket": _PARAMETERS.bucket, "ContentType": _CONTENT_TYPE, "IfNoneMatch": "*"}
    params = {**common, "ContentLength": 4_096}
    return (
        lambda key: signer.sign(key, headers={"Content-Length": "4096"}),
        lambda key: client.generate_presigned_url(
            "put_object", Params={**params, "Key": key}, ExpiresIn=_PARAMETERS.expires_in
        ),
    )


def _post_signers() -> tuple[Sign, Sign]:
    client, metadata = boto3_client(), {"x-amz-meta-grant-id": _GRANT_ID}
    signer = FormSigner(
        _PARAMETERS.credentials,
        _TARGET,
        bucket=_PARAMETERS.bucket,
        issued_at=datetime.now(UTC),
        expires_in=_PARAMETERS.expires_in,
        fields={"Content-Type": _CONTENT_TYPE},
        conditions=_CONDITIONS,
    )
    fields = {"Content-Type": _CONTENT_TYPE, **metadata}

    def sign_with_boto3(key: str) -> None:
        # A new list for each call, because boto3 appends to it.
        conditions = [*_CONDITIONS, {"Content-Type": _CONTENT_TYPE}, metadata]
        client.generate_presigned_post(
            _PARAMETERS.bucket, key, fields, conditions, _PARAMETERS.expires_in
        )

    return lambda key: signer.sign(key, metadata), sign_with_boto3


def _hash_signers(keys: Sequence[str]) -> tuple[SignAll, SignAll]:
    """Return a GET signer, and a function that only hashes as many bytes: a lower bound."""
    signer = _url_signer("GET")
    url_overhead = len("https://?&X-Amz-Signature=") + 64
    request_overhead = len("GET\n\n\nhost:\n\nhost\nUNSIGNED-PAYLOAD")
    request = b"x" * (len(signer.sign(keys[0]).url) - url_overhead + request_overhead)
    scope = f"AWS4-HMAC-SHA256\n20261124T230007Z\n20261124/{_PARAMETERS.region}/s3/aws4_request\n"
    to_sign, day_key = b"x" * (len(scope) + 64), b"x" * 32

    def hash_only(_key: str) -> None:
        sha256(request).hexdigest()
        hmac.digest(day_key, to_sign, "sha256")

    return _sign_each(signer.sign, keys), _sign_each(hash_only, keys)


def _compare_other_signers(keys: Sequence[str], rounds: int) -> Measurements:
    sign = _url_signer("GET").sign
    measurements: Measurements = {}
    for name, create in OTHER_SIGNERS.items():
        try:
            theirs = create(_PARAMETERS, keys)
        except ModuleNotFoundError:
            measurements[f"sign_get_vs_{name}"] = None
        else:
            comparison = _compare(
                lambda: [sign(key).url for key in keys], theirs, rounds, elapsed_seconds
            )
            measurements[f"sign_get_vs_{name}"] = comparison.ratio
    return measurements


def _cpu_seconds(action: Callable[[], object]) -> float:
    start = process_time()
    action()
    return process_time() - start


def _compare(
    ours: SignAll,
    theirs: SignAll,
    rounds: int,
    seconds: Callable[[Callable[[], object]], float] = _cpu_seconds,
) -> Comparison:
    gc.collect()  # or a round of two milliseconds may collect all of boto3's objects
    return compare(alternate(lambda: seconds(ours), lambda: seconds(theirs), rounds))


def _sign_each(sign: Sign, keys: Sequence[str]) -> SignAll:
    return lambda: [sign(key) for key in keys]


def _url_signer(method: str, headers: dict[str, str] | None = None) -> UrlSigner:
    return UrlSigner(
        _PARAMETERS.credentials,
        _TARGET,
        method=method,
        issued_at=datetime.now(UTC),
        expires_in=_PARAMETERS.expires_in,
        headers=headers or {},
    )
