"""Runs the task that responds to a message, in this process, and prints its result as JSON.

Usage: python -m tests.support.servers.task_run, with the message on stdin and the service's
settings in the environment. A worker does the same, except that it stores the result.
"""

import json
import sys
import threading

from worker.tasks import respond_to_message

if __name__ == "__main__":
    respond_to_message.push_request(id="a task id")
    result = respond_to_message.run(json.load(sys.stdin))
    respond_to_message.on_success()
    for thread in threading.enumerate():
        if thread.name.startswith("trigger_"):
            thread.join(30)
    print(json.dumps(result))  # noqa: T201 - the result
