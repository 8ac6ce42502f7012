"""Scripts as users start them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import SECRET

SCRIPT = """
import os, sys, time
import torch
import stellatrain as stella

torch.set_num_threads(1)
stella.init()
net = torch.nn.Linear(4, 2)
net, optimizer = stella.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), density=0.5, rule="sparse")
for step in range(3):
    net(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    {inside}
stella.finish()
# In one write: members may share one pipe.
os.write(1, f"weights {{net.weight.sum().item().hex()}} of {{stella.world_size()}}\\n".encode())
"""


def start(script: str, **env: str) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STELLA_", "SLURM_"))}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=kept | {"STELLA_SECRET": SECRET} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outputs(processes: list[subprocess.Popen]) -> list[str]:
    try:
        return [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def weights_printed(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("weights")]
