"""Learns from storage how grants were used, and settles upload slots that ended."""
