"""torchrun without open ports: `python -m aquarat_core.torchrun [torchrun's arguments] -m MODULE ...`.

See `runtime/rendezvous.py` for how the ranks meet.
"""

import sys

from aquarat_core.runtime.rendezvous import main

if __name__ == "__main__":
    main(sys.argv[1:])
