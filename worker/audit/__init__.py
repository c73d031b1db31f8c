"""Reads the audit log of grants: lists, counts, shows, exports and reports it."""
