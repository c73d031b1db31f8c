"""Finds an object key in the audit log, at no cost to the transactions that write it.

A database index on object keys would halve the rate of issuing, because keys arrive in no order.
Instead, the cleanup task sorts the keys of recent chunks into segments, which are never changed and
are merged into larger ones. A search reads one page of each segment and the few chunks that are in
none yet.
"""
