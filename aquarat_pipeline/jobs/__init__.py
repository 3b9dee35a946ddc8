"""Runs one stage on its hosts: places, starts, follows and stops its job, and starts it again if a host is lost."""
