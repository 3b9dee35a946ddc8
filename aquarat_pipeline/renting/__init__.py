"""Hosts rented from clouds: what they offer and cost, renting them, and ending them.

`cloud.py` has the protocol that all clouds follow, `model.py` its words. The adapters (`lambda_cloud.py`,
`hyperbolic.py`, `gcp.py`) only translate between these and a provider's API; what to rent and when to end it is decided
elsewhere.
"""
