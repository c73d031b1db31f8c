"""The rate and the latency of webhooks, over HTTPS to receivers on this machine."""
