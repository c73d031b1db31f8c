"""What each alert is for, as series of samples: a fault begins after an hour, and ends.

Times are in minutes. An alert fires as long after the beginning as its case says, and no earlier.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.support.alerts.rules import ALERTS, RULES_FILE

START = 60
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
UP = 'up{job="valetkey"}'
Values = tuple[float | None, float | None]
"""The values of a series without and with the fault. None is no sample."""


@dataclass(frozen=True)
class Case:
    """A fault of some minutes, the alert that it causes, and the labels of the alert.

    It fires `fires` minutes after the beginning of the fault. After the end of the fault, it still
    fires for `lasts` minutes. With `grows`, the value of the fault is added in its first minute,
    and stays.
    """

    alert: str
    fires: int
    series: dict[str, Values | str]
    labels: dict[str, str] = field(default_factory=dict)
    minutes: int = 30
    lasts: int = 0
    grows: bool = False

    def test(self) -> dict[str, Any]:
        """Return the test for promtool: not yet, firing, still firing, and no longer."""
        end = START + self.minutes
        samples: dict[str, Values | str] = {UP: (1, 1)} | self.series
        last = end + self.lasts
        times = ((START + self.fires - 1, 0), (START + self.fires, 1), (last - 1, 1), (last, 0))
        return {
            "name": f"{self.alert} {self.labels}",
            "interval": "1m",
            "input_series": [
                {
                    "series": name,
                    "values": values if isinstance(values, str) else self._values(*values),
                }
                for name, values in samples.items()
            ],
            "alert_rule_test": [
                {
                    "eval_time": f"{minute}m",
                    "alertname": self.alert,
                    "exp_alerts": [self._expected()] * is_firing,
                }
                for minute, is_firing in times
            ],
        }

    def _values(self, good: float | None, bad: float | None) -> str:
        after = bad if self.grows else good
        values = [good] * START + [bad] * self.minutes + [after] * 60
        return " ".join("stale" if value is None else f"{value:g}" for value in values)

    def _expected(self) -> dict[str, Any]:
        rule = ALERTS[self.alert]
        annotations = {
            name: _LABEL.sub(lambda match: self.labels.get(match[1], ""), text)
            for name, text in rule["annotations"].items()
        }
        return {"exp_labels": rule["labels"] | self.labels, "exp_annotations": annotations}


def _gauge(alert: str, fires: int, name: str, values: Values, **labels: str) -> Case:
    """Return the case of an alert that has the labels of its only metric."""
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return Case(alert, fires, {f"valetkey_{name}{{{text}}}": values}, labels)


_GRANTS = 'valetkey_grants{{tenant="acme",kind="upload",state="{}",window="24h"}}'
_ATTEMPTS = 'valetkey_webhook_attempts{{tenant="acme",endpoint="hook",result="{}",window="24h"}}'
_REQUESTS = 'valetkey_request_seconds_bucket{{queue="valetkey",le="{}"}}'
_ALL_REQUESTS = "0+60x200"
_PART = {"part": "broker"}

CASES = (
    Case("ValetkeyMetricsMissing", 5, {UP: (1, 0)}, {"job": "valetkey"}),
    Case("ValetkeyMetricsMissing", 5, {UP: (1, None)}, {"job": "valetkey"}),
    _gauge("ValetkeyMetricsMissing", 5, "scrape_complete", (1, 0), part="grants"),
    Case(
        "ValetkeyProbeFailing",
        2,
        {"valetkey_probe_success": (1, 0), 'valetkey_probe_problem{part="signing"}': (0, 1)},
        {"part": "signing"},
    ),
    Case("ValetkeyProbeFailing", 2, {"valetkey_probe_success": (1, 0)}),
    _gauge("ValetkeyDatabaseDown", 2, "database_up", (1, 0)),
    _gauge("ValetkeyBrokerDown", 2, "broker_up", (1, 0)),
    _gauge("ValetkeyResultStoreDown", 2, "result_store_up", (1, 0)),
    Case(
        "ValetkeyRedisMemory",
        5,
        {
            'valetkey_redis_memory_used_bytes{server="broker"}': (8e8, 8.1e8),
            'valetkey_redis_memory_max_bytes{server="broker"}': (1e9, 1e9),
        },
        {"server": "broker"},
    ),
    Case(
        "ValetkeySlow",
        5,
        {
            _REQUESTS.format("5"): "0+60x59 3540+0x29 3540+60x80",
            _REQUESTS.format("10"): _ALL_REQUESTS,
            _REQUESTS.format("+Inf"): _ALL_REQUESTS,
        },
        lasts=5,
    ),
    _gauge("ValetkeyNoWorker", 2, "workers", (2, 0), queue="valetkey.bulk"),
    _gauge("ValetkeyWorkerStuck", 2, "worker_problems", (0, 1), problem="children"),
    _gauge("ValetkeyClockWrong", 2, "worker_problems", (0, 1), problem="own_clock"),
    Case(
        "ValetkeyMixedReleases",
        30,
        {
            'valetkey_worker_info{worker="issue@a",release="0.1.0"}': (1, 1),
            'valetkey_worker_info{worker="issue@b",release="0.2.0"}': (None, 1),
        },
        minutes=40,
    ),
    _gauge("ValetkeyBacklogOld", 2, "queue_oldest_age_seconds", (60, 61), queue="valetkey"),
    _gauge("ValetkeyBacklogOld", 2, "queue_oldest_age_seconds", (900, 901), queue="valetkey.bulk"),
    Case(
        "ValetkeyBacklogLong",
        5,
        {
            'valetkey_queue_messages{queue="valetkey"}': (10_000, 10_000),
            'valetkey_queue_messages{queue="valetkey.waiting"}': (10_000, 10_001),
        },
    ),
    Case(
        "ValetkeyLaneNearlyFull",
        5,
        {
            'valetkey_lane_messages{tenant="acme",queue="valetkey.bulk"}': (8_000, 8_001),
            'valetkey_lane_limit{tenant="acme"}': (10_000, 10_000),
        },
        {"tenant": "acme", "queue": "valetkey.bulk"},
    ),
    _gauge(
        "ValetkeyLaneNearlyFull",
        5,
        "lane_oldest_age_seconds",
        (300, 301),
        tenant="acme",
        queue="valetkey",
    ),
    _gauge("ValetkeyTenantBusy", 5, "busy", (0, 1), tenant="acme"),
    _gauge("ValetkeyDeadLetters", 1, "dead_letters", (0, 1)),
    Case(
        "ValetkeyMessagesDiscarded",
        1,
        {'valetkey_messages_discarded_total{part="json"}': (None, 11)},
        {"part": "json"},
        minutes=10,
        grows=True,
    ),
    Case(
        "ValetkeyRejections",
        1,
        {
            'valetkey_rejections{tenant="acme",code="key_unknown",window="24h"}': (50, 100),
            'valetkey_rejections{tenant="",code="key_unknown",window="24h"}': (None, 51),
        },
        {"code": "key_unknown"},
        minutes=10,
        grows=True,
    ),
    Case(
        "ValetkeyQuotaNearlyUsed",
        5,
        {
            'valetkey_quota_used{tenant="acme",metric="grants",window="day"}': (90, 91),
            'valetkey_quota_limit{tenant="acme",metric="grants",window="day"}': (100, 100),
        },
        {"tenant": "acme", "metric": "grants", "window": "day"},
    ),
    _gauge("ValetkeyUpkeepBehind", 5, "release_overdue_seconds", (300, 301)),
    _gauge("ValetkeyUpkeepBehind", 5, "unsettled_oldest_age_seconds", (86_400, 86_401)),
    _gauge("ValetkeyWebhooksLate", 5, "webhook_oldest_due_age_seconds", (900, 901)),
    Case(
        "ValetkeyWebhooksFail",
        5,
        {_ATTEMPTS.format("failed"): (2, 7), _ATTEMPTS.format("succeeded"): (90, 94)},
        {"tenant": "acme", "endpoint": "hook", "window": "24h"},
        grows=True,
    ),
    _gauge(
        "ValetkeyEndpointDisabled",
        1,
        "webhook_endpoint_disabled",
        (0, 1),
        tenant="acme",
        endpoint="hook",
    ),
    Case(
        "ValetkeyUploadsNotAsGranted",
        15,
        {_GRANTS.format("used"): (95, 94), _GRANTS.format("late"): (5, 6)},
        {"tenant": "acme"},
    ),
    _gauge("ValetkeyRevokedLinksServed", 5, "denials_missing", (0, 1), bucket="demo"),
    _gauge(
        "ValetkeyRevokedLinksServed", 5, "bucket_policy_free_bytes", (2_048, 2_047), bucket="demo"
    ),
    _gauge("ValetkeyConfigDiffers", 1, "config_differences", (0, 1)),
    _gauge("ValetkeyLogContradicted", 5, "checkpoint_refused", (0, 1), tenant="acme"),
    Case(
        "ValetkeyLogUnsigned",
        15,
        {
            'valetkey_checkpoint_age_seconds{tenant="acme"}': (7_200, 7_201),
            'valetkey_tree_leaves{tenant="acme"}': (7, 7),
            'valetkey_checkpoint_leaves{tenant="acme"}': (6, 6),
        },
        {"tenant": "acme"},
    ),
)


def cases_file() -> str:
    """Return the file for `promtool test rules` with all cases."""
    tests = [case.test() for case in CASES]
    return yaml.safe_dump({"rule_files": [str(RULES_FILE)], "tests": tests})
