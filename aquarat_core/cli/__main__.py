import sys

from aquarat_core.cli import main

sys.exit(main())
