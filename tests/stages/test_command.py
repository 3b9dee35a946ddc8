"""The command line that starts ranks, as torchrun's own parser reads it."""

from __future__ import annotations

import sys

from torch.distributed.run import parse_args

from aquarat_core.stages.command import STAGE, Meeting, torchrun


def test_ranks_of_one_host_are_given_the_program_and_its_arguments() -> None:
    command = torchrun((*STAGE, "file:///spec.json"), 3, "/logs")
    assert command[:3] == [sys.executable, "-m", "aquarat_core.torchrun"]
    read = parse_args(command[3:])
    assert (read.nproc_per_node, read.nnodes, read.log_dir) == ("3", "1:1", "/logs")
    assert read.module and (read.training_script, read.training_script_args) == (STAGE[1], ["file:///spec.json"])


def test_agents_of_several_hosts_are_told_where_they_meet() -> None:
    meeting = Meeting(nodes=2, node=1, endpoint="10.0.0.1:29500", job="job-1", local_address="10.0.0.2")
    command = torchrun(STAGE, 4, "/logs", ("/env/bin/python", "-u"), meeting=meeting, tee=True)
    assert command[:4] == ["/env/bin/python", "-u", "-m", "aquarat_core.torchrun"]
    read = parse_args(command[4:])
    assert (read.nnodes, read.rdzv_conf, read.rdzv_endpoint) == ("2", "rank=1", "10.0.0.1:29500")
    assert (read.rdzv_id, read.local_addr, read.tee) == ("job-1", "10.0.0.2", "3")
