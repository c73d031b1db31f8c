"""The private names of Celery, kombu and billiard that the service uses are still there."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from billiard.pool import Pool
from celery.backends.redis import RedisBackend
from celery.concurrency.asynpool import AsynPool
from celery.worker import WorkController
from kombu.message import Message
from kombu.transport import redis, virtual

# Each with its parameters, and with what of ours depends on it.
METHODS: list[tuple[Callable[..., Any], str, list[str], str]] = [
    (owner, name, parameters.split(), ours)
    for owner, name, parameters, ours in [
        (redis.Channel, "_brpop_read", "self options", "OpenChannel: checks of frames"),
        (redis.Channel, "_flush_brpop_reauth", "self", "OpenChannel._brpop_read"),
        (
            redis.Channel,
            "_do_restore_message",
            "self payload exchange routing_key pipe leftmost",
            "OpenChannel: counts of redeliveries",
        ),
        (redis.Channel, "_get_message_priority", "self message reverse", "OpenChannel"),
        (redis.Channel, "_q_for_pri", "self queue pri", "OpenChannel"),
        (redis.Transport, "_deliver", "self message queue", "OpenChannel.deliver"),
        (redis.QoS, "_remove_from_indices", "self delivery_tag pipe", "forget_tag"),
        (WorkController, "_process_task", "self req", "OpenWorker"),
        (AsynPool, "handle_result_event", "self args", "result_pipes"),
        (RedisBackend, "_params_from_url", "self url defaults", "ResultStore"),
        (RedisBackend, "_create_client", "self params", "ResultStore"),
        (RedisBackend, "_set", "self key value expires", "ResultStore"),
        (
            RedisBackend,
            "_store_result",
            "self task_id result state traceback request kwargs",
            "ResultStore",
        ),
        (
            RedisBackend,
            "_get_result_meta",
            "self result state traceback request format_date encode",
            "result_meta",
        ),
    ]
]

# Attributes are set by these methods of theirs, whose text names them.
ATTRIBUTES: list[tuple[Callable[..., Any], str, str]] = [
    (redis.Channel.__init__, "_queue_cycle", "OpenChannel._brpop_read"),
    (redis.Channel._brpop_read, "_in_poll", "OpenChannel._brpop_read"),
    (virtual.QoS.__init__, "_delivered", "unacknowledged"),
    (virtual.Message.__init__, "_raw", "frame_of"),
    (Message.__init__, "_decoded_cache", "keep_body"),
    (vars(Message)["payload"].fget, "_decoded_cache", "keep_body"),
    (AsynPool.__init__, "_fileno_to_outq", "result_pipes"),
    (Pool.__init__, "_pool", "child_processes"),
]


@pytest.mark.parametrize(("owner", "name", "parameters", "ours"), METHODS)
def test_a_private_method_has_the_parameters_that_we_pass(
    owner: Any, name: str, parameters: list[str], ours: str
) -> None:
    method = getattr(owner, name, None)
    place = f"{owner.__module__}.{owner.__qualname__}.{name}"
    assert method is not None, f"{place} is missing: {ours} in worker/broker depends on it"
    found = list(inspect.signature(method).parameters)
    assert found == parameters, f"{place} changed: {ours} in worker/broker depends on it"


@pytest.mark.parametrize(("method", "name", "ours"), ATTRIBUTES)
def test_a_private_attribute_is_set(method: Any, name: str, ours: str) -> None:
    problem = f"{method.__module__}.{method.__qualname__} has no {name}: {ours} depends on it"
    assert f"self.{name}" in inspect.getsource(method), problem
