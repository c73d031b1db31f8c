"""Exceptions of the client."""

from typing import Any

from valetkey.wire import RELEASE
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant, UseState

_MAX_KEY_ID_LENGTH = 127  # characters: two names of 63 and a slash
_MAX_NAME_LENGTH = 64  # characters of a name that only a later service has


class ValetkeyError(Exception):
    """A request to the service failed. The base class of all errors of the client."""

    def __init__(self, *args: Any) -> None:
        """Use the class's docstring as the message if there are no arguments."""
        super().__init__(*(args or (type(self).__doc__,)))

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickle passes the message to __init__, which may take something else.
        return _restore_error, (type(self), self.args, self.__dict__)


def _restore_error(
    error_type: type[ValetkeyError], args: tuple[Any, ...], state: dict[str, Any]
) -> ValetkeyError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(state)
    return error


class NotConfigured(ValetkeyError):
    """A setting is missing or invalid: the broker, the result store, the tenant or the key."""


class BrokerUnreachable(ValetkeyError):
    """The broker or the result store cannot be used; server names the one.

    is_permanent is true if the cause lasts until a setting changes, like a wrong password. is_busy
    is true if the server is the right one, and will soon answer.
    """

    def __init__(
        self, *args: Any, is_permanent: bool = False, is_busy: bool = False, server: str = "broker"
    ) -> None:
        self.is_permanent = is_permanent
        self.is_busy = is_busy
        self.server = server
        super().__init__(*args)


class NoAnswer(ValetkeyError):
    """The service did not respond in time.

    It may still respond. Retry with the same handle: the service charges a batch once, however
    often it receives the messages.
    """


class ServiceUnavailable(NoAnswer):
    """The service reports that it cannot answer now, and the time to wait is over.

    It may still decide the request: retry with the same handle. retry_in is the number of seconds
    until the service itself tries again, if it has said so.
    """

    def __init__(self, *args: Any, retry_in: int | None = None) -> None:
        self.retry_in = retry_in
        super().__init__(*args)


class Busy(ServiceUnavailable):
    """Too many of the tenant's messages wait, so the request was not sent before its time-out.

    retry_in is the number of seconds after which the service expects to take messages again.
    """


class SealedForAnotherKey(ValetkeyError):
    """The result is encrypted to a key that this client does not have; key_id names it.

    Either the request was signed with that key, or another program wrote to the result store.
    """

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        # repr escapes control characters: the key id comes from the result store, unverified.
        printable_id = repr(key_id[:_MAX_KEY_ID_LENGTH])
        super().__init__(
            f"the result is encrypted to the key {printable_id}, which this client does not have: "
            f"use the key that signed the request"
        )


class UnreadableReply(ValetkeyError):
    """The service replied, but this release of valetkey cannot read the reply; status names it.

    The service is newer. It may have decided and charged the request: a newer client can read the
    results, by the same batch id.
    """

    def __init__(self, status: str) -> None:
        self.status = status
        printable_status = repr(status[:_MAX_NAME_LENGTH])
        super().__init__(
            f"the service replied, but valetkey {RELEASE} cannot read a reply of the status "
            f"{printable_status}: the service is newer than this client, so update the client"
        )


class Refused(ValetkeyError):
    """The service refused the request; refusal has the reason."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        field = f"{refusal.field}: " if refusal.field else ""
        super().__init__(f"{refusal.code}: {field}{refusal.message}")


class Expired(ValetkeyError):
    """A result has expired, or has less time left than the client's min_left.

    grant is that result. Ask with a new batch id, or call client.reissue(), for a grant of the same
    object that is valid for longer.
    """

    def __init__(self, grant: Grant, min_left: float) -> None:
        self.grant = grant
        left = grant.seconds_left
        state = f"has {left:.0f} s left, less than {min_left:.0f} s" if left > 0 else "has expired"
        super().__init__(
            f"the grant {grant.id} of {grant.key!r} {state}: request it with a new batch id, or "
            "call reissue()"
        )


class UnusableGrant(ValetkeyError):
    """The grant has an HTTP method that this release of valetkey does not know; method names it.

    The service is newer. A program that sends the method to the grant's url can use the grant.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        printable_method = repr(method[:_MAX_NAME_LENGTH])
        super().__init__(
            f"valetkey {RELEASE} cannot use a grant of the method {printable_method}: the service "
            "is newer than this client, so update the client"
        )


class StorageError(ValetkeyError):
    """Storage did not accept an upload or a manifest."""


class NotStored(StorageError):
    """Storage does not have the object of a grant, or not as it was granted.

    use is what the service knows: its state is `open` if the time to wait is over, so that you can
    wait again; `unused`, `late`, `mismatched` or `overwritten` do not change any more. size, etag,
    version and problem of use describe the object that storage has.
    """

    def __init__(self, message: str, use: UseState) -> None:
        self.use = use
        super().__init__(message)
