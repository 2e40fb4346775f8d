"""A stage of the wheel shared between processes, also where there are more of them than GPUs."""

import os
import subprocess
import sys
from pathlib import Path

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
# As on a machine with one GPU: torch counts one, and takes it for what processes meet on.
SHARING = """
import sys
import torch

torch.cuda.device_count = lambda: 1
torch.cuda.is_available = lambda: True
torch.cuda.set_device = lambda index: print("on GPU", index, flush=True)
torch._C._get_accelerator = lambda *args: torch.device("cuda")
from train import blocks

state = blocks.join()
blocks.wait_for_all()
print("process", state.process_index, "of", state.num_processes, flush=True)
"""


def test_processes_can_share_a_gpu_and_still_meet():
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}", "WORLD_SIZE": "2"}
    ranks = [{"RANK": f"{i}", "LOCAL_RANK": f"{i}", "LOCAL_WORLD_SIZE": "2"} for i in range(2)]
    launched = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING], env=os.environ | shared | rank, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ranks
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in launched]
    assert [process.returncode for process in launched] == [0, 0], said
    for index, (out, _) in enumerate(said):
        assert "on GPU 0" in out and f"process {index} of 2" in out
