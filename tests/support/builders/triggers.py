"""The tasks that a response triggers once its producer has it."""

from worker import hooks
from worker.issue.dispatch import Response


def triggered_tasks(response: Response) -> list[str]:
    """Call the hooks of a committed response; return the names of the tasks that they trigger."""
    triggered: list[str] = []
    if response.sender is not None and response.message is not None:
        hooks.committed(response.message, response.sender.tenant, triggered.append)
    return triggered
