"""The keeper's program with a project in small for its hosts: `python -m tests.renting.keeper_program CHECKOUT`.

Everything else is as in `python -m aquarat_pipeline.renting.keeping`. The real lock files hold gigabytes of packages,
so hosts get the environment of `tests/launching`; and their jobs have short leases, so that a lost one is missed soon.
It waits for a keeper that is at work to end, and then goes on until it is killed: a worker whose step waits starts a
keeper only while there is none.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.renting.clouds.cloud import this_machine
from aquarat_pipeline.renting.keeping import SecondKeeperError, keep, managed_hosts
from tests.launching.cluster_fixture import FAST


def main(checkout: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    home, surroundings = dagster_home(), this_machine()
    hosts = managed_hosts(home, surroundings, checkout=checkout, fields=FAST)
    while True:
        try:
            keep(home, surroundings, hosts, stay=True)
        except SecondKeeperError:
            time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
