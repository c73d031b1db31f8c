"""How Celery is set up, as data. Where the servers are comes from the environment (worker.app)."""

# Redis forgets who took a message when a worker is killed: after this many seconds it is handed out
# again. More than any task may run, far less than a producer waits. Celery wants it said thrice.
visibility_timeout = 120
broker_transport_options = {
    "visibility_timeout": visibility_timeout,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 30,
    # In the order they are named: what somebody waits for goes before bulk. The price: as long as
    # there is nothing but the former, bulk waits. A worker for bulk alone does not.
    "queue_order_strategy": "priority",
    # A half-open connection eats messages until it is noticed: these bound how long that takes.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
result_backend_transport_options = broker_transport_options | {"retry_policy": {"timeout": 5.0}}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

# A message is done when its answer is stored, not when it was read.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = True
worker_soft_shutdown_timeout = 10
task_soft_time_limit = 45
task_time_limit = 60
worker_max_tasks_per_child = 10_000

# Nothing but JSON reaches our code.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
worker_consumer = "worker.message_guard:GuardedConsumer"
task_default_queue = "valetkey"
task_routes = {
    "valetkey.issue": {"queue": "valetkey"},
    "valetkey.deliver": {"queue": "valetkey.upkeep"},
    "valetkey.manifests": {"queue": "valetkey.upkeep"},
    "valetkey.upkeep": {"queue": "valetkey.upkeep"},
}

# A result holds grants: only the task that answers a producer stores one, and not for long.
task_ignore_result = True
result_expires = 900
result_backend_always_retry = True
result_backend_max_retries = 5
redis_socket_timeout = 5
redis_socket_connect_timeout = 3
redis_socket_keepalive = True
redis_backend_health_check_interval = 10

# Events carry arguments and results to whoever listens.
worker_send_task_events = False
task_send_sent_event = False
worker_hijack_root_logger = False

# The schedule lives in memory: every sweep looks in the database for what is due.
beat_scheduler = "celery.beat:Scheduler"
enable_utc = True
