"""Other libraries that sign URLs. They are installed for the bench alone, where they can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

from worker.core.signing.sigv4 import Credentials

SignAll = Callable[[], object]
"""Sign all keys."""


@dataclass(frozen=True)
class Place:
    """What everybody signs for, and for how many seconds."""

    credentials: Credentials
    bucket: str
    region: str
    expires_in: int

    @property
    def host(self) -> str:
        """Of the region."""
        return f"s3.{self.region}.amazonaws.com"


def obstore(place: Place, keys: Sequence[str]) -> SignAll:
    """Sign a list in one call, in Rust."""
    sign = import_module("obstore").sign
    store = import_module("obstore.store").S3Store(
        place.bucket,
        region=place.region,
        access_key_id=place.credentials.access_key,
        secret_access_key=place.credentials.secret_key,
        virtual_hosted_style_request=True,
    )
    return lambda: sign(store, "GET", list(keys), timedelta(seconds=place.expires_in))


def libpresign(place: Place, keys: Sequence[str]) -> SignAll:
    """Sign one by one, in C++."""
    get = import_module("libpresign").get
    mine = (place.credentials.access_key, place.credentials.secret_key, place.region, place.bucket)
    return lambda: [get(*mine, key, place.expires_in) for key in keys]


def minio(place: Place, keys: Sequence[str]) -> SignAll:
    """Sign one by one, in Python."""
    client = import_module("minio").Minio(
        place.host,
        access_key=place.credentials.access_key,
        secret_key=place.credentials.secret_key,
        region=place.region,
    )
    life = timedelta(seconds=place.expires_in)
    return lambda: [client.presigned_get_object(place.bucket, key, life) for key in keys]


PEERS: dict[str, Callable[[Place, Sequence[str]], SignAll]] = {
    "obstore": obstore,
    "libpresign": libpresign,
    "minio": minio,
}
