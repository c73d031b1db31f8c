"""Other libraries that sign URLs. Only `make bench` installs them, where a wheel exists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

from valetkey.signing.sigv4 import Credentials

SignAll = Callable[[], object]
"""A function that signs all keys once."""


@dataclass(frozen=True)
class SigningParameters:
    """The parameters that all libraries sign with; `expires_in` is in seconds."""

    credentials: Credentials
    bucket: str
    region: str
    expires_in: int

    @property
    def host(self) -> str:
        """The S3 host of the region."""
        return f"s3.{self.region}.amazonaws.com"


def obstore(parameters: SigningParameters, keys: Sequence[str]) -> SignAll:
    """Sign a list in one call, in Rust."""
    sign = import_module("obstore").sign
    store = import_module("obstore.store").S3Store(
        parameters.bucket,
        region=parameters.region,
        access_key_id=parameters.credentials.access_key,
        secret_access_key=parameters.credentials.secret_key,
        virtual_hosted_style_request=True,
    )
    return lambda: sign(store, "GET", list(keys), timedelta(seconds=parameters.expires_in))


def libpresign(parameters: SigningParameters, keys: Sequence[str]) -> SignAll:
    """Sign one by one, in C++."""
    get = import_module("libpresign").get
    credentials = parameters.credentials
    common = (
        credentials.access_key,
        credentials.secret_key,
        parameters.region,
        parameters.bucket,
    )
    return lambda: [get(*common, key, parameters.expires_in) for key in keys]


def minio(parameters: SigningParameters, keys: Sequence[str]) -> SignAll:
    """Sign one by one, in Python."""
    client = import_module("minio").Minio(
        parameters.host,
        access_key=parameters.credentials.access_key,
        secret_key=parameters.credentials.secret_key,
        region=parameters.region,
    )
    expires = timedelta(seconds=parameters.expires_in)
    return lambda: [client.presigned_get_object(parameters.bucket, key, expires) for key in keys]


OTHER_SIGNERS: dict[str, Callable[[SigningParameters, Sequence[str]], SignAll]] = {
    "obstore": obstore,
    "libpresign": libpresign,
    "minio": minio,
}
