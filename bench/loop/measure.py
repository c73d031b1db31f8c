"""Measures the time from the use of a grant to the webhook that tells of it, on embedded parts."""

import base64
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from time import perf_counter

from bench import service
from bench.metrics import Measurements
from examples.demo.webhook_receiver import WebhookReceiver, running_receiver
from valetkey import Client
from valetkey.webhooks import Event, UploadStored, unwrap
from worker.dev.stack import Stack

_SAMPLES = 200
_WARM_UP = 10
_TIMEOUT = 30  # seconds: over the interval of the upkeep worker's sweeps
_SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def measure() -> Measurements:
    """Record the uses of upload slots one after another, and wait for the webhook of each."""
    with (
        running_receiver() as receiver,
        service.running_service(hook=service.Hook(receiver.url, _SECRET)) as stack,
        service.signing_client(stack) as client,
        _recorder(stack) as recorder,
    ):
        bucket = stack.config.buckets[service.BUCKET].bucket
        samples = [
            _seconds_to_webhook(client, bucket, receiver, recorder)
            for _ in range(_WARM_UP + _SAMPLES)
        ]
    milliseconds = [seconds * 1e3 for seconds in samples[_WARM_UP:]]
    return {
        "loop_webhook_ms": median(milliseconds),
        "loop_webhook_p95_ms": quantiles(milliseconds, n=20)[-1],
        "loop_webhook_least_ms": min(milliseconds),
        "loop_webhook_most_ms": max(milliseconds),
    }


def _seconds_to_webhook(
    client: Client, bucket: str, receiver: WebhookReceiver, recorder: "subprocess.Popen[str]"
) -> float:
    grant = client.upload(
        service.BUCKET, "2026/a", max_size=10, callback=service.HOOK, notify=["upload.stored"]
    ).result()
    if [_next_event(receiver).type for _ in range(2)] != ["grants.decided", "batch.completed"]:
        raise RuntimeError("the results of the request did not come first")
    if recorder.stdin is None or recorder.stdout is None:
        raise RuntimeError("the recorder has no pipes")
    start = perf_counter()
    print(grant.id, bucket, grant.key, file=recorder.stdin, flush=True)
    event = _next_event(receiver)
    seconds = perf_counter() - start
    if recorder.stdout.readline() != "1\n" or not isinstance(event, UploadStored):
        raise RuntimeError("the use was not recorded")
    if event.data.uploads[0].id != grant.id:
        raise RuntimeError("the webhook is about another upload")
    return seconds


def _next_event(receiver: WebhookReceiver) -> Event:
    body, headers = receiver.requests.get(timeout=_TIMEOUT)
    return unwrap(body, headers, _SECRET)


@contextmanager
def _recorder(stack: Stack) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "bench.loop.recorder"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=stack.environ, text=True, stdin=pipe, stdout=pipe
    ) as recorder:
        yield recorder
        recorder.terminate()
