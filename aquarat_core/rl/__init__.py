"""On-policy reinforcement learning against the verified answer."""
