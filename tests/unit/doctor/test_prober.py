"""What a response to a probe says, and for how long."""

import json
from typing import Any

import pytest

from valetkey.errors import Busy
from worker.doctor import prober
from worker.doctor.prober import MAX_AGE, Prober, ProbeReport, _read_response
from worker.doctor.queue_checks import check_probe


def response(**causes: Any) -> bytes:
    return json.dumps({"status": "SUCCESS", "result": causes}).encode()


def test_the_failures_of_a_worker_are_read() -> None:
    assert _read_response(response(database=None, signing=None)) == {}
    read = _read_response(response(database="the disk is full", signing=None))
    assert read == {"database": "the disk is full"}


def test_a_forged_cause_is_cut_off_and_cannot_control_the_terminal() -> None:
    read = _read_response(response(database=None, signing="\x1b[2J" + "x" * 1_000))
    assert read["signing"].startswith("\\x1b[2Jxx")
    assert len(read["signing"]) < 250


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b'{"status": "FAILURE", "result": null}',
        b'{"status": "SUCCESS", "result": {"status": "refused"}}',
        response(database=1, signing=None),
    ],
)
def test_a_response_that_no_worker_of_this_release_writes_is_no_success(raw: bytes) -> None:
    assert list(_read_response(raw)) == ["worker"]


def test_a_probe_that_is_a_minute_old_says_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("worker.doctor.prober.time.monotonic", lambda: now)
    reports = iter(
        [ProbeReport(now, 0.012, {}), ProbeReport(now + MAX_AGE, None, {"worker": "silent"})]
    )
    monkeypatch.setattr(prober, "send_probe", lambda _timeout: next(reports))
    probes = Prober()
    assert probes.is_new
    probes.probe(1)
    now += MAX_AGE
    probes.probe(1)
    assert (probes.last_response, probes.seconds) == (ProbeReport(1_000.0, 0.012, {}), 0.012)
    assert probes.last == ProbeReport(now, None, {"worker": "silent"})
    now += 1
    assert probes.last_response is None


def test_doctor_names_each_part_that_a_probe_found_to_fail() -> None:
    (ok,) = check_probe(ProbeReport(0, 0.012, {}))
    assert (ok.state, ok.message) == ("ok", "answered in 12 ms")
    problems = {"database": "the disk is full", "signing": "no credentials"}
    checks = list(check_probe(ProbeReport(0, 0.012, problems)))  # type: ignore[arg-type]
    assert [(check.state, check.message) for check in checks] == [
        ("fail", "database: the disk is full"),
        ("fail", "signing: no credentials"),
    ]


@pytest.mark.parametrize("error", [Busy("the service is busy"), RuntimeError("secret")])
def test_whatever_stops_a_probe_is_found_as_a_problem_of_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_timeout: float) -> Any:
        raise error

    monkeypatch.setattr(prober, "send_probe", fail)
    probes = Prober()
    probes.probe(1)
    assert probes.last is not None
    assert probes.last.problems == {"worker": f"the probe failed with {type(error).__name__}"}
