"""The AWS permission to ask whether a bucket is versioned."""

from worker.shared.aws_permissions import Permission

PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "Versioning",
        "`doctor`",
        ("s3:GetBucketVersioning",),
        "bucket",
        "earlier versions would be stored and not counted",
        "a tenant that uploads has a quota of `stored_bytes`",
        lambda use: use.stores if use.counts_stored else (),
    ),
)
