"""The hosts that stages run on: the inventory, the ways to them, what they are sent and how they are prepared."""
