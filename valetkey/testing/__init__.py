"""Fakes of the clients for tests of producers: in this process, without Redis and a service."""

from valetkey.testing.fake_clients import AsyncFakeClient, FakeClient
from valetkey.testing.fake_service import Request
from valetkey.testing.policy import Policy, Quota

__all__ = ["AsyncFakeClient", "FakeClient", "Policy", "Quota", "Request"]
