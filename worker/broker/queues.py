"""The queues of the service: which tasks they carry, and which roles of workers consume them."""

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE, ISSUE_TASK

UPKEEP_QUEUE = "valetkey.upkeep"
QUEUES_BY_TASK = {
    ISSUE_TASK: (INTERACTIVE_QUEUE, BULK_QUEUE),
    "valetkey.deliver": (UPKEEP_QUEUE,),
    "valetkey.manifests": (UPKEEP_QUEUE,),
    "valetkey.upkeep": (UPKEEP_QUEUE,),
}
QUEUES_BY_ROLE = {
    "issue": (INTERACTIVE_QUEUE, BULK_QUEUE),
    "interactive": (INTERACTIVE_QUEUE,),
    "bulk": (BULK_QUEUE,),
    "upkeep": (UPKEEP_QUEUE,),
}

EVENTS_ROLE = "events"
"""The role of workers that read queues of SQS, which bucket profiles name."""

EVENTS_PREFIX = "events:"
"""The beginning of the names of SQS queues among those that workers consume."""

RESULT_INDEX = "valetkey.results."
"""Begins the key of a batch's set of task ids: those of results that are not named after it."""
