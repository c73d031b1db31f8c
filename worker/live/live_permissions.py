"""The AWS permissions of live checks."""

from worker.shared.aws_permissions import Permission

PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "Live",
        "`doctor --live`",
        (
            *("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion"),
            *("s3:GetObject", "s3:PutObject"),
        ),
        "objects",
        "it stores objects, uses grants for them, and deletes them with all versions",
        "`--live s3://PROFILE/PREFIX`",
        "live",
    ),
)
