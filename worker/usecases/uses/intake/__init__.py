"""Reads event notifications from SQS queues, and records the uses in them."""
