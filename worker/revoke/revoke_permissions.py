"""The AWS permissions of revocations."""

from worker.shared.aws_permissions import Permission, role_arns

PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "Revoke",
        "revocation",
        ("s3:DeleteBucketPolicy", "s3:GetBucketPolicy", "s3:PutBucketPolicy"),
        "bucket",
        "`revoke` denies objects in the bucket's policy, and the upkeep worker removes that again",
        "`--with revoke`, and a policy allows anything",
        lambda use: use.options.get("revoke", ()) if use.policies else (),
    ),
    Permission(
        "EndSessions",
        "the end of role sessions",
        ("iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy", "iam:PutRolePolicy"),
        "role",
        "`revoke --end-sessions` puts a policy on the role. IAM limits this to no single policy: "
        "set a permissions boundary on the role",
        "`--with end-sessions`, and the profile has `role_arn`",
        lambda use: role_arns(use) if "end-sessions" in use.options else (),
        "workers",
    ),
)
