"""deploy/kubernetes: what kustomize builds is valid, hardened, complete, and runs what exists."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft7Validator

from tests.support.deploy.manifests import (
    BUILDS,
    KUBERNETES,
    build_manifests,
    containers,
    objects,
    pods,
)
from tests.support.docs.command_lines import ROOT, parse_command
from worker.__main__ import main
from worker.base.progress import STOP_TIMEOUT
from worker.broker.queues import QUEUES_BY_ROLE
from worker.settings import Settings, unknown_variables
from worker.uses.feature import EVENTS_ROLE

pytestmark = (
    pytest.mark.slow
)  # kustomize takes a second for each folder, schemas of 30 MB some more
WORKERS = ("bulk", "events", "issue", "upkeep")
OLDEST, NEWEST = "1.30", "1.37"  # matchLabelKeys of topology spread needs 1.27


def object_schema(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": [*required],
        "additionalProperties": False,
    }


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
# The fields that the files use, as the references of KEDA and of the Prometheus Operator type them.
# All metadata of a trigger are texts.
TRIGGER = object_schema(
    {
        "type": {"const": "prometheus"},
        "metadata": object_schema(
            {"serverAddress": TEXT, "query": TEXT, "threshold": TEXT},
            activationThreshold=TEXT,
            ignoreNullValues={"enum": ["true", "false"]},
        ),
    }
)
SPECS = {
    "ScaledObject": object_schema(
        {
            "scaleTargetRef": object_schema({"name": TEXT}),
            "triggers": {"type": "array", "items": TRIGGER, "minItems": 1},
        },
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        fallback=object_schema(
            {"failureThreshold": COUNT, "replicas": COUNT},
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher"]},
        ),
    ),
    "ServiceMonitor": object_schema(
        {
            "selector": object_schema({"matchLabels": {"type": "object"}}),
            "endpoints": {
                "type": "array",
                "items": object_schema({"port": TEXT, "interval": TEXT, "scrapeTimeout": TEXT}),
            },
        },
        jobLabel=TEXT,
    ),
}
VERSIONS = {"ScaledObject": "keda.sh/v1alpha1", "ServiceMonitor": "monitoring.coreos.com/v1"}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("folder", BUILDS)
def test_each_object_is_valid_by_the_schemas_of_kubernetes(folder: str, version: str) -> None:
    own = [each for each in build_manifests(folder) if each["kind"] not in SPECS]
    assert own
    for each in own:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_field_is_found_by_these_schemas() -> None:
    deployment = objects("Deployment")["valetkey-issue"]
    wrong = deployment | {"spec": deployment["spec"] | {"minReadySecond": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("kind", SPECS)
def test_an_object_of_an_extension_has_only_fields_that_exist(kind: str) -> None:
    found = objects(kind)
    assert found
    for each in found.values():
        assert each["apiVersion"] == VERSIONS[kind]
        Draft7Validator(SPECS[kind]).validate(each["spec"])


def test_the_example_has_every_role_that_consumes_queues() -> None:
    roles = {name.removeprefix("valetkey-") for name in objects("Deployment")} - {"metrics"}
    assert roles == {*WORKERS}
    consumed = {queue for role in roles - {EVENTS_ROLE} for queue in QUEUES_BY_ROLE[role]}
    assert consumed == {queue for queues in QUEUES_BY_ROLE.values() for queue in queues}
    for role in roles:
        assert containers()[f"valetkey-{role}/valetkey"]["args"] == ["run", "--only", role]


def test_each_container_runs_a_command_that_exists(tmp_path: Path) -> None:
    (tmp_path / "tenants.toml").touch()
    for each in containers().values():
        assert "command" not in each  # the entry point of the image is `python -m worker`
        parse_command(main, [re.sub("^/etc/.*/", f"{tmp_path}/", word) for word in each["args"]])


@pytest.mark.parametrize("role", WORKERS)
def test_each_probe_of_a_worker_runs_a_command_that_exists(role: str) -> None:
    container = containers()[f"valetkey-{role}/valetkey"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        words = container[probe]["exec"]["command"]
        assert words[:3] == ["python", "-m", "worker"]
        parse_command(main, words[3:])


def test_an_outage_of_a_server_restarts_no_worker() -> None:
    for role in WORKERS:
        container = containers()[f"valetkey-{role}/valetkey"]
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"][-1] == "--live"
        assert container["readinessProbe"]["exec"]["command"][-1] == "--ready"


def test_no_pod_has_rights_or_a_token_or_can_write_but_to_its_own_tmp() -> None:
    for spec in pods().values():
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        writable = {each["name"] for each in spec["volumes"] if "emptyDir" in each}
        assert writable == {"tmp"}
    for container in containers().values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        paths = [each["mountPath"] for each in container["volumeMounts"] if "readOnly" not in each]
        assert paths == ["/tmp"]  # noqa: S108 - in the container
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
    for account in objects("ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_only_workers_have_the_identity_at_aws() -> None:
    with_identity = {name for name, spec in pods().items() if "serviceAccountName" in spec}
    assert with_identity == {f"valetkey-{role}" for role in WORKERS}
    (account,) = objects("ServiceAccount")
    assert {pods()[name]["serviceAccountName"] for name in with_identity} == {account}


def test_pods_run_as_the_user_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for spec in pods().values():
        context = spec["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


@pytest.mark.parametrize("role", WORKERS)
def test_a_rollout_has_a_new_worker_before_it_stops_an_old_one(role: str) -> None:
    spec = objects("Deployment")[f"valetkey-{role}"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["minReadySeconds"] > 0
    assert pods()[f"valetkey-{role}"]["terminationGracePeriodSeconds"] >= STOP_TIMEOUT + 10


def test_a_selector_of_a_budget_a_service_or_a_monitor_has_pods() -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for each in objects("Deployment").values()
    ]
    selectors = [
        *(
            each["spec"]["selector"]["matchLabels"]
            for each in objects("PodDisruptionBudget").values()
        ),
        *(each["spec"]["selector"] for each in objects("Service").values()),
        *(each["spec"]["selector"]["matchLabels"] for each in objects("ServiceMonitor").values()),
        *(each["spec"]["podSelector"]["matchLabels"] for each in objects("NetworkPolicy").values()),
    ]
    assert len(selectors) >= 6
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels)


def test_nobody_connects_to_a_pod_but_prometheus_to_metrics() -> None:
    policies = objects("NetworkPolicy")
    assert policies.keys() == {"valetkey", "valetkey-metrics"}
    assert "ingress" not in policies["valetkey"]["spec"]
    assert policies["valetkey"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policies["valetkey-metrics"]["spec"]["ingress"]
    assert rule["from"]
    assert rule["ports"]


def test_keda_alone_decides_how_many_pods_of_a_deployment_there_are() -> None:
    for name, scaled in objects("ScaledObject").items():
        assert scaled["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in objects("Deployment")[name]["spec"]
        assert "replicas" in objects("Deployment", "base")[name]["spec"]


def test_settings_exist_and_secrets_are_only_named() -> None:
    for settings in objects("ConfigMap").values():
        variables = {k: v for k, v in settings["data"].items() if k.startswith("VALETKEY_")}
        assert not unknown_variables(variables)
        Settings.model_validate(
            {k.removeprefix("VALETKEY_").lower(): v for k, v in variables.items()}
        )
    files = [path.read_text(encoding="utf-8") for path in KUBERNETES.rglob("*.*")]
    assert not [text for text in files if "kind: Secret\n" in text or "://valetkey" in text]


def test_the_job_and_the_workers_have_the_same_settings_and_image() -> None:
    references = {str(each["envFrom"][0]) for each in containers().values()}
    images = {each["image"] for each in containers().values()}
    assert (len(references), len(images)) == (1, 1)
