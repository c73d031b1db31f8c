"""Reads event notifications of storage from queues of SQS."""
