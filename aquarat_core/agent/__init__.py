"""The agent that manages jobs on a GPU host. Standard library only, Python 3.8 or newer.

The control host packs this folder into one file that Python can run directly, sends it to the host and names it by its
hash. Each call runs one command with a JSON object on standard input and one on standard output (`protocol.py`);
secrets are only ever passed there. `start` leaves a supervisor behind; everything else returns at once.
"""
