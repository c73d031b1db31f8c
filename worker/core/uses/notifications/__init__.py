"""Event notifications of storage: reads what a message in an SQS queue tells of uses."""
