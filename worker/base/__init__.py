"""What all rooms build on: the database engine and its statements, jobs, limits and webhooks."""
