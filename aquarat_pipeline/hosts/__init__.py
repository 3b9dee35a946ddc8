"""The hosts that stages run on: the inventory, how to reach and prepare hosts, and what is sent to them."""
