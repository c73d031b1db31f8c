"""What a producer installs: the message contract, the client, its command line, webhooks."""

from valetkey.client import Client
from valetkey.errors import BrokerUnreachable, NoAnswer, NotConfigured, Refused, ValetkeyError
from valetkey.handles import BatchHandle, GrantHandle
from valetkey.messages import Grant, Item
from valetkey.refusals import Code, Refusal

__all__ = [
    "BatchHandle",
    "BrokerUnreachable",
    "Client",
    "Code",
    "Grant",
    "GrantHandle",
    "Item",
    "NoAnswer",
    "NotConfigured",
    "Refusal",
    "Refused",
    "ValetkeyError",
]
