"""The training loop and its parts: session, loss, sharded optimizer, callbacks, checks before the first step."""
