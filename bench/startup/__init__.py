"""The time that commands take to start."""
