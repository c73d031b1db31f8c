"""Reads event notifications from SQS queues, and records the uses of which they tell."""
