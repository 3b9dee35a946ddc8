"""Asset checks: what must hold of an artifact after it was materialized, read back from the store."""
