"""Calls of S3, STS, IAM and SQS: credentials, clients, objects and queues."""
