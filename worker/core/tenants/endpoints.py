"""The S3 endpoints of bucket profiles: the public one in links, and the one that is called."""

from typing import NamedTuple

from worker.core.tenants.config import Bucket


class DefaultEndpoints(NamedTuple):
    """The endpoints of bucket profiles that name none.

    public is in signed URLs; None means AWS. internal receives the service's own requests; None
    means the public one.
    """

    public: str | None = None
    internal: str | None = None

    def public_of(self, bucket: Bucket) -> str | None:
        """Return the endpoint in the signed URLs of a bucket profile; None means AWS."""
        if bucket.endpoint is not None:
            return bucket.endpoint
        return None if _selects_aws(bucket) else self.public

    def internal_of(self, bucket: Bucket) -> str | None:
        """Return the endpoint that the service calls for a bucket profile; None means AWS.

        The default applies only to profiles whose public endpoint is the default as well.
        """
        if bucket.internal_endpoint is not None:
            return bucket.internal_endpoint
        uses_defaults = bucket.endpoint is None and not _selects_aws(bucket)
        internal = self.internal if uses_defaults else None
        return self.public_of(bucket) if internal is None else internal


NO_ENDPOINTS = DefaultEndpoints()


def _selects_aws(bucket: Bucket) -> bool:
    return bucket.fips or bucket.dualstack or bucket.accelerate
