"""The uses of grants: finds grants by id, inserts uses, and keeps the newest object of each key."""
