"""The documents that `permissions` prints, against AWS's own lists of actions and parameters."""

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import hcl2
import pytest
from botocore import xform_name
from botocore.session import Session
from botocore.validate import ParamValidator
from click.testing import CliRunner, Result
from policy_sentry.querying.actions import get_action_data
from policy_sentry.querying.conditions import get_condition_keys_for_service

from tests.support.docs.command_lines import ROOT
from worker.core import CORE
from worker.feature import Feature
from worker.features import FEATURES, resolve
from worker.permissions.permissions_command import permissions
from worker.rules.grant_kinds import ALL_S3_ACTIONS
from worker.shared.aws_permissions import all_permissions

EXAMPLE = ROOT / "examples" / "tenants.toml"
EVERYTHING = """
[buckets.statements]
bucket = "acme-statements"
region = "eu-central-1"
owner = "444455556666"
role_arn = "arn:aws:iam::111122223333:role/apps/valetkey"
external_id = "agreed-with-acme"
events_queue = "https://sqs.eu-central-1.amazonaws.com/111122223333/uploads"
versioned = true

[buckets.logs]
bucket = "acme-logs"
region = "eu-central-1"

[tenants.acme]
trust = "queue"
[tenants.acme.allow.statements]
prefixes = ["a*b/", "acme/", "acme/inner/"]
kinds = ["download", "upload", "put", "multipart"]
max_size = "5GiB"
max_expires_in = "36h"
acls = ["private"]
redirects = ["https://app.example.com/done/"]
kms_keys = ["arn:aws:kms:eu-central-1:111122223333:key/1234abcd"]

[tenants.globex]
trust = "queue"
[tenants.globex.allow.logs]
prefixes = ["globex/"]
kinds = ["upload"]
max_size = "1MiB"
kms_keys = ["arn:aws:kms:eu-central-1:111122223333:alias/logs"]
[tenants.globex.quotas]
stored_bytes = { live = "1GiB" }
"""
ALL_OF_IAM = (
    *("iam", "--with", "revoke", "--with", "end-sessions"),
    *("--logs", "s3://logs/acme/", "--export", "s3://logs/exports/"),
    *("--live", "s3://statements/valetkey-doctor/"),
    *("--worker", "arn:aws:iam::111122223333:role/valetkey-worker"),
)
ROLE = "111122223333-valetkey"
GUARDRAILS = ("guardrails", "--network", "8.8.8.0/24", "--vpc", "vpc-0a1b2c3d")
COMMANDS = (
    ALL_OF_IAM,
    ("bucket",),
    ("cors",),
    ("lifecycle",),
    GUARDRAILS,
    (*GUARDRAILS, "--as", "scp", "--principal", "arn:aws:iam::111122223333:role/other"),
)

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command with a tenants file, by default one that uses everything."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str = EVERYTHING) -> Result:
        has_logs = "[buckets.logs]" in text and "--file" not in words
        checkpoints = "s3://logs/checkpoints/" if has_logs else "/checkpoints"
        monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", checkpoints)
        Path("tenants.toml").write_text(text, encoding="utf-8")
        return CliRunner().invoke(permissions, words)

    return run


@pytest.fixture
def documents(run: Run) -> Documents:
    """A function that returns the documents of a command by name."""

    def documents(*words: str, text: str = EVERYTHING) -> dict[str, Any]:
        result = run(*words, "--json", text=text)
        assert result.exit_code == 0, result.output
        values: dict[str, Any] = json.loads(result.stdout)
        return values

    return documents


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the statements of a policy by Sid, which must be unique."""
    by_sid = {statement["Sid"]: statement for statement in document["Statement"]}
    assert len(by_sid) == len(document["Statement"])
    assert all(map(re.compile("[A-Za-z0-9]+").fullmatch, by_sid))
    return by_sid


def test_the_example_gets_the_policy_of_its_kinds_and_prefixes(run: Run) -> None:
    result = run("iam", "--file", str(EXAMPLE), "--json")
    found = statements(json.loads(result.stdout)["workers-default"])
    both = ["arn:aws:s3:::valetkey-demo/acme/*", "arn:aws:s3:::valetkey-demo/globex/*"]
    acme, bucket = both[0], "arn:aws:s3:::valetkey-demo"
    assert {sid: (s["Action"], s["Resource"]) for sid, s in found.items()} == {
        "Downloads": ("s3:GetObject", both),
        "Versions": ("s3:GetObjectVersion", both),
        "Uploads": ("s3:PutObject", acme),
        "UploadAcls": ("s3:PutObjectAcl", acme),
        "UploadTags": ("s3:PutObjectTagging", acme),
        "AbortUploads": ("s3:AbortMultipartUpload", acme),
        "FindUploads": ("s3:ListBucketMultipartUploads", bucket),
        "Probes": ("s3:GetObject", acme),
        "MissingObjects": ("s3:ListBucket", bucket),
    }


def test_a_role_signs_and_the_workers_only_assume_it(documents: Documents) -> None:
    found = documents(*ALL_OF_IAM, "--profile", "statements")
    assert set(found) == {f"trust-{ROLE}", f"role-{ROLE}", "workers-default"}
    assert {"EventsStatements", "AssumeRoleStatements"} < set(statements(found["workers-default"]))
    trust = statements(found[f"trust-{ROLE}"])["Workers"]
    assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": ["agreed-with-acme"]}}


def test_prefixes_are_escaped_and_those_inside_of_others_left_out(documents: Documents) -> None:
    found = statements(documents("iam")[f"role-{ROLE}"])["Downloads"]["Resource"]
    bucket = "arn:aws:s3:::acme-statements"
    assert found == [f"{bucket}/a${{*}}b/*", f"{bucket}/acme/*"]


def test_what_runs_by_a_command_is_allowed_only_if_it_is_named(documents: Documents) -> None:
    named = {"Revoke", "EndSessions", "Live", "AccessLogs", "Exports"}
    for words, expected in ((("iam",), set()), (ALL_OF_IAM, named)):
        sids = {sid for doc in documents(*words).values() for sid in statements(doc)}
        assert {sid for sid in named if any(s.startswith(sid) for s in sids)} == expected


def test_a_policy_beyond_the_limit_of_aws_is_for_whole_buckets(run: Run) -> None:
    prefixes = json.dumps([f"tenant-number-{number}/" for number in range(200)])
    text = EVERYTHING.replace('["globex/"]', prefixes)
    result = run("iam", "--profile", "logs", text=text)
    assert "Permissions for many prefixes are for whole" in re.sub(r"\n#   ", " ", result.stdout)
    assert "arn:aws:s3:::acme-logs/*" in result.stdout
    assert "tenant-number" not in result.stdout


def test_a_key_is_named_by_its_id_or_by_a_condition_on_its_alias(documents: Documents) -> None:
    found = documents("iam")
    key = statements(found[f"role-{ROLE}"])["KmsRead"]
    assert key["Resource"] == "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
    alias = next(
        statement
        for sid, statement in statements(found["workers-default"]).items()
        if sid.startswith("KmsAliases")
    )
    assert alias["Resource"] == "arn:aws:kms:eu-central-1:111122223333:key/*"
    has_alias = {"kms:ResourceAliases": ["alias/logs"]}
    assert alias["Condition"]["ForAnyValue:StringEquals"] == has_alias


ONE_PROFILE = """
[buckets.demo]
bucket = "{}"
region = "us-east-1"
[tenants.acme]
trust = "queue"
[tenants.acme.allow.demo]
prefixes = ["acme/"]
kinds = ["download"]
"""


def test_an_access_point_has_arns_of_its_own(documents: Documents) -> None:
    arn = "arn:aws:s3:us-east-1:111122223333:accesspoint/reports"
    text = ONE_PROFILE.format(arn)
    found = statements(documents("iam", text=text)["workers-default"])["Downloads"]
    assert found["Resource"] == f"{arn}/object/acme/*"
    assert documents("bucket", text=text) == {}


@pytest.mark.parametrize(
    "bucket",
    [
        "arn:aws:s3-object-lambda:us-east-1:111122223333:accesspoint/reports",
        "acme--use1-az4--x-s3",
        "acme--use1-az4--xa-s3",
    ],
)
def test_kinds_of_buckets_with_other_actions_get_no_policy(run: Run, bucket: str) -> None:
    result = run("iam", text=ONE_PROFILE.format(bucket))
    assert result.stdout == "# No bucket profile of the file needs such a document.\n"


def test_names_of_statements_stay_unique_for_similar_profiles(documents: Documents) -> None:
    table = '[buckets.{}]\nbucket = "acme-{}"\nregion = "eu-central-1"\n'
    allow = '[tenants.acme.allow.{}]\nprefixes = ["a/"]\nkinds = ["download"]\n'
    names = ("a-b", "ab")
    text = "".join(table.format(name, name) for name in names)
    text += '[tenants.acme]\ntrust = "queue"\n' + "".join(allow.format(name) for name in names)
    found = documents("iam", text=text)["workers-default"]
    downloads = [sid for sid in statements(found) if sid.startswith("Downloads")]
    assert len(downloads) == len(names)


def service(action: str) -> str:
    return action.partition(":")[0]


def has_form(arn: str, form: str) -> bool:
    """Return whether an ARN is of a resource type of AWS's list."""
    parts = re.split(r"\$\{(\w+)\}", form)
    names = [r".*" if re.search("Object|Path", name) else "[^:/]*" for name in parts[1::2]]
    texts = map(re.escape, parts[::2])
    pattern = "".join(part for pair in zip_longest(texts, names, fillvalue="") for part in pair)
    return re.fullmatch(pattern, arn) is not None


def grammar_errors(statement: dict[str, Any]) -> list[str]:
    """Return what AWS's lists of actions, resources and conditions do not have."""
    errors = []
    keys = {key for values in statement.get("Condition", {}).values() for key in values}
    for action in as_list(statement["Action"]):
        if action.endswith(":*"):
            known = set(get_condition_keys_for_service(service(action)))
        else:
            data = get_action_data(service(action), action.partition(":")[2])
            if not data:
                return [f"{action} is unknown"]
            rows = data[service(action)]
            known = {key for row in rows for key in row["condition_keys"]}
            known |= set(get_condition_keys_for_service(service(action)) or ())
            forms = [row["resource_arn_format"] for row in rows]
            arns = as_list(statement.get("Resource", []))
            errors += [
                f"{action} is not for {arn}"
                for arn in arns
                if arn != "*" and not any(has_form(arn, form) for form in forms)
            ]
        errors += [
            f"{action} has no condition {key}"
            for key in keys
            if not key.startswith("aws:") and key not in known
        ]
    return errors


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words)[:24])
def test_aws_knows_every_action_resource_and_condition(
    documents: Documents, words: tuple[str, ...]
) -> None:
    for document in documents(*words).values():
        for statement in document.get("Statement", []):
            assert grammar_errors(statement) == []


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ({"Action": "s3:GetObjekt"}, "s3:GetObjekt is unknown"),
        (
            {"Action": "s3:ListBucket", "Resource": "arn:aws:s3:::acme/x/*"},
            "s3:ListBucket is not for arn:aws:s3:::acme/x/*",
        ),
        (
            {"Action": "s3:GetObject", "Condition": {"StringLike": {"s3:prefixes": "a"}}},
            "s3:GetObject has no condition s3:prefixes",
        ),
    ],
)
def test_the_check_of_the_grammar_finds_errors(statement: dict[str, Any], error: str) -> None:
    assert error in grammar_errors(statement)


@pytest.mark.parametrize(
    ("words", "operation", "parameter"),
    [
        (COMMANDS[2], "PutBucketCors", "CORSConfiguration"),
        (COMMANDS[3], "PutBucketLifecycleConfiguration", "LifecycleConfiguration"),
    ],
)
def test_boto3_accepts_the_rules_of_a_bucket(
    documents: Documents, words: tuple[str, ...], operation: str, parameter: str
) -> None:
    model = Session().get_service_model("s3").operation_model(operation)
    (document,) = documents(*words).values()
    report = ParamValidator().validate({"Bucket": "b", parameter: document}, model.input_shape)
    assert not report.has_errors(), report.generate_report()


def unquote(value: Any) -> Any:
    """Return a parsed expression of Terraform as the value that it stands for."""
    if isinstance(value, dict):
        items = ((unquote(name), unquote(item)) for name, item in value.items())
        return {name: item for name, item in items if not str(name).startswith("__")}
    if isinstance(value, list):
        return [unquote(item) for item in value]
    if isinstance(value, str) and value.startswith('"'):
        return json.loads(value).replace("$${", "${").replace("%%{", "%{")
    return value


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words)[:24])
def test_terraform_reads_the_same_documents(
    run: Run, documents: Documents, words: tuple[str, ...]
) -> None:
    text = run(*words, "--terraform").stdout
    parsed = hcl2.loads(text)
    expected = documents(*words)
    assert len(parsed["resource"]) + len(parsed.get("locals", [])) == len(expected)
    policies = re.findall(r"= jsonencode\((\{.+?\n  \})\)", text, re.DOTALL)
    contents = [unquote(hcl2.loads(f"x = {policy}\n")["x"]) for policy in policies]
    assert contents == [document for document in expected.values() if "Statement" in document]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words)[:24])
def test_the_shell_writes_each_document_before_a_command_reads_it(
    run: Run, documents: Documents, words: tuple[str, ...]
) -> None:
    text = run(*words).stdout
    written = dict(
        re.findall(r"^cat > (\S+)\.json <<'END'\n(.+?)\nEND$", text, re.MULTILINE | re.DOTALL)
    )
    assert {name: json.loads(content) for name, content in written.items()} == documents(*words)
    read = re.findall(r"file://(\S+)\.json", text)
    assert read == [*written]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words)[:24])
def test_the_output_says_what_was_not_proven(run: Run, words: tuple[str, ...]) -> None:
    for options in ((), ("--terraform",)):
        assert "No document was tried on AWS." in run(*words, *options).stdout


def test_the_bucket_refuses_signatures_older_than_its_longest_lifetime(
    documents: Documents,
) -> None:
    found = statements(documents("bucket")["bucket-policy-acme-statements"])
    age = found["NoOldSignatures"]["Condition"]["NumericGreaterThan"]["s3:signatureAge"]
    assert int(age) == 36 * 3_600 * 1_000


@pytest.mark.parametrize("field", ["endpoint", "internal_endpoint"])
def test_plain_http_is_not_denied_where_the_service_uses_it(run: Run, field: str) -> None:
    text = EVERYTHING.replace("[buckets.logs]", f'[buckets.logs]\n{field} = "http://minio:9000"')
    result = run("bucket", "--profile", "logs", text=text)
    assert "plain HTTP is not denied" in result.stdout
    assert "TlsOnly" not in result.stdout


def test_the_profiles_of_one_bucket_share_its_documents(documents: Documents) -> None:
    one = ONE_PROFILE.format("acme-shared").replace("kinds = [", 'max_expires_in = "7d"\nkinds = [')
    two = one.replace(".demo", ".two").replace("download", "put").replace("7d", "1m")
    text = one + two.replace('[tenants.acme]\ntrust = "queue"\n', "").replace("acme/", "b/")
    text += 'max_size = "1MiB"\n'
    for names in ((), ("--profile", "two")):
        (document,) = documents("bucket", *names, text=text).values()
        age = statements(document)["NoOldSignatures"]["Condition"]["NumericGreaterThan"]
        assert int(age["s3:signatureAge"]) == 7 * 86_400 * 1_000
        (document,) = documents(
            "cors", "--origin", "https://a.example.com", *names, text=text
        ).values()
        assert document["CORSRules"][0]["AllowedMethods"] == ["GET", "PUT"]


def test_a_policy_is_for_all_profiles_that_use_the_credentials(documents: Documents) -> None:
    (one,) = documents("iam", "--profile", "logs").values()
    assert one == documents("iam")["workers-default"]


def test_roles_of_one_name_in_two_accounts_have_policies_of_their_own(documents: Documents) -> None:
    one = ONE_PROFILE.format("acme-one").replace(
        "region", 'role_arn = "arn:aws:iam::111122223333:role/v"\nregion'
    )
    two = one.replace(".demo", ".two").replace("acme-one", "acme-two").replace("1111", "4444")
    text = one + two.replace('[tenants.acme]\ntrust = "queue"\n', "")
    assert {"role-111122223333-v", "role-444422223333-v"} < documents("iam", text=text).keys()


def test_pasted_commands_run_nothing_but_themselves(run: Run, tmp_path: Path) -> None:
    profile = """x;touch ran;$(touch ran)`touch ran`' & / y"""
    text = EVERYTHING.replace("[buckets.logs]", f"[buckets.logs]\nprofile = {json.dumps(profile)}")
    text = text.replace('"globex/"', '"globex/", "$(touch ran)`touch ran`/", "END/"')
    (tmp_path / "aws").write_text("#!/bin/sh\n")
    (tmp_path / "aws").chmod(0o700)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = run("iam", text=text).stdout
    subprocess.run(
        ["/bin/sh", "-e"], input=script, text=True, env=environ, cwd=tmp_path, check=True
    )
    assert not (tmp_path / "ran").exists()
    assert len(list(tmp_path.glob("*.json"))) == len(re.findall("^cat > ", script, re.MULTILINE))


GOLDEN = Path(__file__).with_name("documents.json")


def test_the_documents_are_those_that_were_reviewed(documents: Documents) -> None:
    """Set VALETKEY_TEST_GOLDEN to write the file again, and review its change."""
    found = {" ".join(words): documents(*words) for words in COMMANDS}
    if os.environ.get("VALETKEY_TEST_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_table_has_every_action_that_a_session_signs_with() -> None:
    actions = {action for permission in all_permissions() for action in permission.actions}
    assert actions >= set(ALL_S3_ACTIONS)


# Operations that AWS does not allow by an action of their own name.
OTHER_ACTIONS = {
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:UploadPart": "s3:PutObject",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
}


def called_actions(package: Path) -> set[str]:
    """Return the actions of the methods of boto3's clients that the code of a package names."""
    by_method = {
        xform_name(name): OTHER_ACTIONS.get(f"{service}:{name}", f"{service}:{name}")
        for service in ("s3", "sqs", "iam", "sts")
        for name in Session().get_service_model(service).operation_names
    }
    return {
        by_method[node.attr]
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in by_method
    }


IN_AWS = [feature for feature in FEATURES if feature.name != "dev"]  # it has storage of its own


@pytest.mark.parametrize("feature", IN_AWS, ids=lambda feature: feature.name)
def test_each_feature_contributes_the_actions_that_its_own_code_calls(feature: Feature) -> None:
    contributed = {
        action
        for reference in {**CORE.actions, **feature.actions}.values()
        for permission in resolve(reference)
        for action in permission.actions
    }
    package = ROOT / "worker" / ("aws" if feature is CORE else feature.name)
    assert called_actions(package) <= contributed


def test_a_policy_that_is_too_long_for_aws_is_refused(run: Run) -> None:
    text = '[tenants.acme]\ntrust = "queue"\n'
    for number in range(30):
        text += f'[buckets.b{number}]\nbucket = "acme-{number}"\nregion = "eu-central-1"\n'
        text += f'[tenants.acme.allow.b{number}]\nprefixes = ["a/"]\nkinds = ["download"]\n'
    result = run("iam", text=text)
    assert result.exit_code == 1
    assert "characters, and AWS allows 6,144" in result.output


def test_unfinished_uploads_outlive_the_cleanup(documents: Documents) -> None:
    (document,) = documents("lifecycle").values()
    days = {
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in document["Rules"]
    }
    assert days == {2 + 8}
    assert [rule["Filter"]["Prefix"] for rule in document["Rules"]] == ["a*b/", "acme/"]


def test_pages_of_redirects_may_send_the_requests_of_their_kinds(documents: Documents) -> None:
    (document,) = documents("cors").values()
    (rule,) = document["CORSRules"]
    assert rule["AllowedOrigins"] == ["https://app.example.com"]
    assert rule["AllowedMethods"] == ["GET", "POST", "PUT", "DELETE"]


def test_guardrails_leave_room_for_the_longest_lifetime(documents: Documents) -> None:
    (document,) = documents("guardrails").values()
    age = statements(document)["NoOldSignatures"]["Condition"]["NumericGreaterThan"]
    assert int(age["s3:signatureAge"]) == 36 * 3_600 * 1_000


def test_guardrails_limit_who_presigns_only_if_all_signers_are_known(documents: Documents) -> None:
    (document,) = documents("guardrails").values()
    assert "OnlyValetkeyPresigns" not in statements(document)
    signer = "arn:aws:iam::111122223333:user/workers"
    (document,) = documents("guardrails", "--principal", signer).values()
    known = statements(document)["OnlyValetkeyPresigns"]["Condition"]["ArnNotLikeIfExists"]
    role = "arn:aws:iam::111122223333:role/apps/valetkey"
    assert known == {"aws:PrincipalArn": [role, signer]}


def test_guardrails_of_users_have_no_principal_and_fit(documents: Documents) -> None:
    for attachment, has_principal in (("rcp", True), ("scp", False)):
        (document,) = documents(*GUARDRAILS, "--as", attachment).values()
        assert {"Principal" in item for item in document["Statement"]} == {has_principal}
        assert len(json.dumps(document, separators=(",", ":"))) <= 5_120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("iam", "--profile", "statement"), "there is no bucket profile 'statement': did you mean"),
        (("iam", "--logs", "logs/x"), "write s3://PROFILE/PREFIX"),
        (
            ("iam", "--export", "s3://log/x"),
            "there is no bucket profile 'log': did you",
        ),
        (("iam", "--worker", "valetkey"), "a user or role is given by its full ARN"),
        (("cors", "--profile", "logs"), "no policy has redirects: name the page by --origin"),
        (("cors", "--origin", "https://a/b"), "an origin is a scheme, a host"),
        (("guardrails", "--network", "8.8.8.8/8"), "a network is like 198.51.100.0/24"),
        (("guardrails", "--network", "10.0.0.0/8"), "10.0.0.0/8 is not public"),
        (("guardrails", "--vpc", "prod"), "a VPC is like vpc-"),
        (("guardrails", "--principal", "arn:aws:iam::111122223333:role/*"), "by its full ARN"),
        (("bucket", "--json", "--terraform"), "--json and --terraform exclude each other"),
    ],
)
def test_a_wrong_option_is_refused(run: Run, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_without_a_tenants_file_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(permissions, ["iam"])
    assert "there is no tenants.toml here: name the tenants file by --file" in result.output


@pytest.mark.parametrize("provider", ["aws", "other"])
def test_where_a_profile_has_an_endpoint_its_provider_decides(run: Run, provider: str) -> None:
    profile = f'endpoint = "https://s3.proxy.example"\nprovider = "{provider}"\n'
    text = EVERYTHING.replace("[buckets.logs]\n", f"[buckets.logs]\n{profile}")
    is_elsewhere = "logs is not on AWS" in run("iam", text=text).stdout
    assert is_elsewhere == (provider == "other")


def test_r2_gets_no_policy(run: Run) -> None:
    text = '[buckets.edge]\nbucket = "acme"\nregion = "auto"\nprovider = "r2"\n'
    text += 'endpoint = "https://0123.r2.cloudflarestorage.com"\naddressing = "path"\n'
    result = run("iam", text=text)
    assert "aws iam" not in result.stdout
