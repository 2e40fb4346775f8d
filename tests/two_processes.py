"""Run by torchrun in two processes: `tests/test_training.py` compares what they leave with what one leaves.

First DDP; then FSDP2, which accelerate turns on for GPUs only, so it is turned on by hand here.
"""

import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from dsd import training
from dsd.command import quiet
from dsd.training_options import TrainOptions
from tests import student


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


if __name__ == "__main__":
    quiet()
    teacher, out, start = Path(sys.argv[1]), Path(sys.argv[2]), training.start
    student.run(teacher, out / "ddp", lora_dropout=0.0)
    training.start = start_sharded
    student.run(teacher, out / "fsdp2", lora_dropout=0.0, steps=2)
    student.run(teacher, out / "fsdp2", lora_dropout=0.0)  # goes on from the state of the first
