"""A stage of the wheel shared between processes, also where there are more of them than GPUs."""

import os
from multiprocessing import get_context

import torch
from accelerate import PartialState

from tests.servers import free_port
from train import blocks


def meet(rank: int, port: int, said) -> None:
    """One of two processes on a machine with one GPU: torch counts one, and takes it for their meeting."""
    ranks = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update({**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"})
    used = []
    torch.cuda.device_count, torch.cuda.is_available = lambda: 1, lambda: True
    torch.cuda.set_device = used.append
    torch._C._get_accelerator = lambda *args: torch.device("cuda")
    PartialState._reset_state()
    state = blocks.join()
    blocks.wait_for_all()
    said.put((state.process_index, state.num_processes, used))


def test_processes_can_share_a_gpu_and_still_meet():
    forks, port = get_context("fork"), free_port()  # forked, because importing torch anew takes seconds
    said = forks.SimpleQueue()
    processes = [forks.Process(target=meet, args=(rank, port, said), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(said.get() for _ in processes) == [(0, 2, [0]), (1, 2, [0])]
