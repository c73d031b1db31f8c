"""The AWS permissions of exports into buckets."""

from worker.shared.aws_permissions import Permission

PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "Exports",
        "exports",
        ("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"),
        "objects",
        "`audit export` stores an object unless there is one, and aborts an upload that failed",
        "`--export s3://PROFILE/PREFIX`",
        "export",
    ),
)
