"""The uses of grants: reports, their comparison with grants, and the states of grants."""
