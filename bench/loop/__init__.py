"""The time from the use of a grant to the webhook that tells of it."""
