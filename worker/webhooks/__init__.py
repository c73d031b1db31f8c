"""Delivers webhooks and manifests from the outbox."""
