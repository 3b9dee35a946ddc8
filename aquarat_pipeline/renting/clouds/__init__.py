"""Providers: one protocol, an adapter for each, and what all of them share over HTTP."""
