"""One stage on its hosts: placed, started, followed and stopped, and started again where a host was lost."""
