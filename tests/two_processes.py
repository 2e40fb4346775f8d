"""Two processes train as one would: `tests/training/test_ways.py` compares what they leave.

First DDP; then FSDP2, which accelerate turns on for GPUs only, so it is turned on by hand here.
"""

import os
from pathlib import Path

import torch.distributed
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from dsd.generate.command import quiet
from dsd.training import loop as training
from dsd.training.options import TrainOptions
from tests import student

LORA = {"accumulate": 2, "ema": 0.9, "lora_dropout": 0.0, "validate_every": 2}
FULL = {"accumulate": 2, "full": True, "lr": 1e-3}
STREAMED = {"accumulate": 2, "lora_dropout": 0.0, "sizes": ("32",), "cache_gb": 1.0}


def streamed(teacher: Path) -> student.Rows:
    return student.Rows(student.pairs(), teacher / "model_index.json")  # any file


def start_sharded(options: TrainOptions) -> Accelerator:
    accelerator = start(options)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["FluxTransformerBlock", "FluxSingleTransformerBlock"],
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    accelerator.state._shared_state["distributed_type"] = DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


start = training.start


def main(rank: int, port: int, teacher: Path, out: Path) -> None:
    """One of the two; what torchrun and accelerate's launcher tell a process is told here."""
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) | dict.fromkeys(
        ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"
    )
    os.environ.update({**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    quiet()
    student.run(teacher, out / "ddp", **LORA, validate=student.validate)
    student.run(teacher, out / "streamed", rows=streamed(teacher), **STREAMED)
    training.start = start_sharded
    student.run(teacher, out / "fsdp2", **LORA, steps=2, validate=student.validate)
    student.run(
        teacher, out / "fsdp2", **LORA, validate=student.validate
    )  # goes on from the first one's state
    student.run(teacher, out / "fsdp2-full", **FULL)
    torch.distributed.destroy_process_group()
