"""Celery's settings. Server addresses come from the environment, through worker.app."""

from worker.features import TASKS

# Redis does not notice that a worker was killed: it delivers the worker's message again only after
# this many seconds. The value must exceed task_time_limit and stay far below the time that a
# producer waits. Celery reads it from here and from both transport options below.
visibility_timeout = 120
broker_transport_options = {
    "visibility_timeout": visibility_timeout,
    "unacked_restore_interval": 5,
    "unacked_restore_limit": 200,  # forged entries must not stop a worker's loop
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 30,
    # Read the queues in the order in which the worker lists them: requests that a caller waits for
    # come before bulk. The cost: bulk waits while the earlier queues are not empty. A worker that
    # consumes only the bulk queue avoids that.
    "queue_order_strategy": "priority",
    # The broker delivers messages to a half-open connection until the connection is closed. These
    # limits bound how long that takes.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
result_backend_transport_options = broker_transport_options | {"retry_policy": {"timeout": 5.0}}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

# Acknowledge a message after its result is stored, not when it is received.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = True
worker_soft_shutdown_timeout = 10
task_soft_time_limit = 45
task_time_limit = 60
worker_max_tasks_per_child = 10_000

# Accept JSON only, so that a message cannot run code while it is decoded.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
worker_consumer = "worker.broker.celery_guard:GuardedConsumer"
task_default_queue = "valetkey"
task_routes = {name: {"queue": task.queues[0]} for name, task in TASKS.items()}

# A result contains grants, so only the task that responds to a producer stores one, for 15 minutes
# at most.
task_ignore_result = True
result_expires = 900
result_backend_always_retry = True
result_backend_max_retries = 5
redis_socket_timeout = 5
redis_socket_connect_timeout = 3
redis_socket_keepalive = True
redis_backend_health_check_interval = 10

# Anyone at the broker could stop workers, or change what they consume.
worker_enable_remote_control = False

# Task events carry arguments and results to every listener, so none are sent.
worker_send_task_events = False
task_send_sent_event = False
worker_hijack_root_logger = False

enable_utc = True
