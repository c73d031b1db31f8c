"""The base of all rooms: the database engine and its statements, jobs, limits and webhooks."""
