"""The agent: what a GPU host runs besides torchrun. Standard library only, Python 3.8 or newer.

The control host packs this folder into one file that Python runs as it is, sends it to the host and calls it by its
hash. One call is one command with a JSON object on standard input and one on standard output (`protocol.py`); what is
secret travels there and nowhere else. `start` leaves a supervisor behind; everything else returns at once.
"""
