"""The cost of single links: their latency and rate, what signatures cost, beside bulk."""
