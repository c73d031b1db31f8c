from typing import Any

from valetkey.wire.refusals import Refusal

_LONGEST_ID = 127  # characters: two names and a slash


class ValetkeyError(Exception):
    """Something went wrong between this program and the service."""

    def __init__(self, *args: Any) -> None:
        """Say what happened; without a message of its own an error says its docstring."""
        super().__init__(*(args or (type(self).__doc__,)))


class NotConfigured(ValetkeyError):
    """valetkey does not know which service to ask, or for whom."""


class BrokerUnreachable(ValetkeyError):
    """The broker or the result store did not answer in time."""


class NoAnswer(ValetkeyError):
    """The service did not answer in time.

    It may still do so, and it charges once however often it is asked: ask again with the same
    handle.
    """


class SealedForAnotherKey(ValetkeyError):
    """The answer is sealed to a key that this client has not; key_id names it.

    It was asked for with that key, or somebody else wrote into the result store.
    """

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        shown = repr(key_id[:_LONGEST_ID])  # whoever wrote it chose its characters
        super().__init__(f"the answer is sealed to the key {shown}, which this client has not")


class Refused(ValetkeyError):
    """The service decided not to grant; refusal says why."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(f"{refusal.code}: {refusal.message}")


class NotStored(ValetkeyError):
    """Storage did not take what was sent to it."""
