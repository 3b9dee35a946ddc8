"""Asset checks, which test artifacts after they were materialized by reading them back from the store."""
