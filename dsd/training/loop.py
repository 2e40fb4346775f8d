"""The training loop: a text-to-image model learns to draw `[reference | target]` from an image and text.

accelerate distributes it over devices and processes, and peft adds the LoRA. All random values are functions
of the seed and the number of the sample or step, so that the same command resumes a training exactly.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin, send_to_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsd.files import whole
from dsd.files.pairs import Row
from dsd.model import flow
from dsd.model.checkpoint import best_device, weights_hash
from dsd.model.origin import USUAL_TASKS
from dsd.model.pipeline import DSDPipeline
from dsd.training import estimate, student
from dsd.training.batches import Batch, Batches, count_references, other_inputs
from dsd.training.data import Data, Frame, check_rows, encode, open_rows
from dsd.training.meter import Meter
from dsd.training.optimizer import build_optimizer, describe_jump, learning_rate
from dsd.training.options import TrainOptions
from dsd.training.state import EMA, Progress, TrainState, gather_weights, trainable_parameters
from dsd.training.streamed import StreamedData
from dsd.training.student import Base

logger = logging.getLogger(__name__)

Validate = Callable[[DSDPipeline, int], dict[str, float]]


@dataclass(frozen=True)
class TrainResult:
    """Facts of a finished training, for its card."""

    base: Base
    options: TrainOptions
    processes: int
    device: str
    rows: int
    skipped: int  # unusable rows of the dataset
    seconds: float  # in the loop, over all runs of the command
    kept: float | None = None  # share of the LoRA's change that rounding left in the folder


@dataclass(frozen=True)
class Method:
    """How a training opens its model, computes its loss and saves its weights."""

    open: Callable[[Base, TrainOptions, torch.dtype, torch.device], nn.Module]
    loss: Callable[[nn.Module, Batch, TrainOptions, DSDPipeline], Tensor]
    save: Callable[[Base, TrainOptions, dict[str, Tensor], Path], float | None]
    widens: bool = True  # whether the plan counts the student's input columns for the condition
    unit: str = "pairs"  # what the plan calls the rows


@sdpa_kernel(student.KERNELS)
def train(
    pairs: Sequence[Row],
    options: TrainOptions,
    out: Path,
    *,
    validate: Validate | None = None,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
    on_plan: Callable[[str], None] | None = None,
    method: Method | None = None,
    tasks: Sequence[str] = USUAL_TASKS,
) -> TrainResult:
    """Train on `pairs` and write a checkpoint to `out`, resuming where an earlier call was stopped.

    `on_step(step, values)` receives loss and scores on the main process, and `on_plan(text)` the memory, disk
    and time to expect. `validate(pipe, step)` is called in all processes at once, because sharded weights can
    only be used together. `method` trains another model on the same batches, such as a baseline of
    `train.baselines`. `tasks` are those that the pairs teach. Raise TrainingError if the training cannot run,
    before the first step if possible.
    """
    # set-up
    method = method or default_method()
    base = replace(student.find_base(options), tasks=tuple(tasks))
    check_rows(pairs, options)
    accelerator = start(options)
    facts = {"rows": len(pairs), "validates": validate is not None, "widens": method.widens}
    plan = estimate.make(base, options, accelerator, **facts)
    estimate.check(plan, cache_folder(options, out), out)
    if on_plan and accelerator.is_main_process:
        on_plan(estimate.describe(plan, options, estimate.time_step(plan, accelerator), method.unit))

    # data
    pipe = _open_pipeline(base, options, accelerator)
    data = _open_data(pairs, pipe, options, cache_folder(options, out), accelerator.device, on_rows)
    batches = Batches(data, options, accelerator.process_index, accelerator.num_processes)

    # model
    pipe.register_modules(transformer=method.open(base, options, pipe.dtype, accelerator.device))
    bound = {"weights": weights_hash(pipe.transformer), "data": data.name, "group": batches.order.group}
    bound |= options.binding()
    student.init_condition_columns(pipe, options)  # after the hash, which must not depend on GPU rounding
    built = build_optimizer(pipe.transformer, options, accelerator)
    model, optimizer = accelerator.prepare(pipe.transformer, built)
    weights = trainable_parameters(accelerator, model)
    ema = EMA(weights, options.ema) if options.ema else None
    state = TrainState(out / "run" / "states", accelerator, model, optimizer, ema, bound)
    progress = state.load(options.steps)
    if accelerator.is_main_process and (jump := describe_jump(progress.step, progress.steps, options)):
        logger.warning(jump)

    # loop
    meter = Meter(accelerator, progress.seconds)
    report = on_step if accelerator.is_main_process else lambda step, values: None
    for step, parts in enumerate(meter.measure(batches.steps(progress.step)), progress.step):
        _prepare_step(step, options, accelerator, optimizer)
        for part in parts:
            batch = send_to_device(part, accelerator.device, non_blocking=True)
            with accelerator.accumulate(model):
                with _precision(accelerator, options):
                    loss = method.loss(model, batch, options, pipe)
                accelerator.backward(loss)
                norm = None  # until the step is complete
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(list(weights.values()), options.clip)
                optimizer.step()
                optimizer.zero_grad()
            meter.add(loss, norm)
        if ema:
            ema.update(step)
        done, is_last = step + 1, step + 1 == options.steps
        if is_last or done % options.log_every == 0:
            report(done, meter.read() | {"rate": learning_rate(step, options)})
        if validate and (is_last or done % options.validate_every == 0):
            with meter.pause():
                report(done, _validate(validate, pipe, ema, done, accelerator.device))
        if is_last or done % options.save_every == 0:
            with meter.pause():
                state.save(Progress(done, meter.seconds, options.steps))

    # save
    with ema.swap() if ema else nullcontext():
        trained = gather_weights(accelerator, model)
    kept = method.save(base, options, trained, out) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    facts = (accelerator.num_processes, _name_device(accelerator.device), len(data), data.skipped)
    return TrainResult(base, options, *facts, meter.seconds, kept)


def _open_pipeline(base: Base, options: TrainOptions, accelerator: Accelerator) -> DSDPipeline:
    """Return the pipeline without its transformer, drawing as the training does."""
    is_bf16 = accelerator.mixed_precision == "bf16"
    pipe = student.open_encoders(base, torch.bfloat16 if is_bf16 else torch.float32)
    student.match_training(pipe, base, options)
    return pipe


def _open_data(
    pairs: Sequence[Row],
    pipe: DSDPipeline,
    options: TrainOptions,
    cache: Path,
    device: torch.device,
    on_rows: Callable[[int, int], None],
) -> Data | StreamedData:
    """Return the dataset, all of it encoded, or to be encoded while it trains."""
    if not options.cache_gb:
        return encode(pairs, pipe, options, cache, device, on_rows)
    return StreamedData(open_rows(pairs, pipe, options, cache), pipe, options, cache, device)


def start(options: TrainOptions) -> Accelerator:
    """Set up the processes of `accelerate launch` or `torchrun`, or a single process without them."""
    precision = options.precision or ("bf16" if torch.cuda.is_available() else "fp32")
    accelerator = Accelerator(
        cpu=best_device() == "cpu",  # otherwise several torchrun processes are not detected
        mixed_precision={"bf16": "bf16", "fp32": "no"}[precision],
        # As a plugin: the launcher's value, which may be "auto", would override a plain number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=options.accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # a slow save must not time out
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        configure_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config, options)
    return accelerator


def configure_deepspeed(config: dict[str, Any], options: TrainOptions) -> None:
    """Set what accelerate would take from a data loader (there is none) or choose by itself."""
    config["train_micro_batch_size_per_gpu"] = options.batch
    config["gradient_accumulation_steps"] = options.accumulate
    config["gradient_clipping"] = options.clip


def cache_folder(options: TrainOptions, out: Path) -> Path:
    return Path(options.cache) if options.cache else out / "run" / "cache"


def _prepare_step(step: int, options: TrainOptions, accelerator: Accelerator, optimizer: Any) -> None:
    """Set the learning rate, and the seed of LoRA's dropout, the only random numbers inside the model."""
    seed = np.random.SeedSequence((options.seed, step, accelerator.process_index))
    torch.manual_seed(int(seed.generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, options)


def batch_loss(model: nn.Module, batch: Batch, options: TrainOptions, pipe: DSDPipeline) -> Tensor:
    """Return the weighted squared error of the predicted velocities, over all frames."""
    x_t = flow.interpolate(batch.data, batch.noise, batch.t)
    seen = torch.cat([x_t, batch.condition], dim=2)  # [B, tokens, 2C]
    inputs, references = other_inputs(batch, options, pipe), count_references(batch, pipe)
    velocity = model(hidden_states=seen, **inputs)[0]
    weights = (options.reference_weight, options.target_weight)
    weights = frame_weights(batch.frame, pipe.vae_scale_factor, weights, references).to(batch.data.device)
    return flow.loss(velocity, flow.velocity(batch.data, batch.noise), weights)


def frame_weights(frame: Frame, scale: int, weights: tuple[float, float], references: int = 1) -> Tensor:
    """Return weights [1, tokens, 1]: the references share one value, and the target has the other."""
    columns, rows = frame[0] // (2 * scale), frame[1] // (2 * scale)
    row = torch.tensor((weights[0] / references, weights[1])).repeat_interleave(columns)  # of both frames
    further = row[0].expand((references - 1) * columns * rows)
    return torch.cat([row.repeat(rows), further])[None, :, None]


@contextmanager
def _precision(accelerator: Accelerator, options: TrainOptions) -> Iterator[None]:
    """Enable bf16 autocast, which only DeepSpeed leaves to us, and plain attention in bf16 on a CPU.

    The backward pass of the CPU's fused attention in bf16 took 39 % of a step. Gradient checkpointing keeps
    the fused kernel: it recomputes activations outside this context and needs the same kernel both times.
    """
    kind, is_bf16 = accelerator.device.type, accelerator.mixed_precision == "bf16"
    is_plain = is_bf16 and kind == "cpu" and not options.gradient_checkpointing
    attention = sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext()
    with torch.autocast(kind, torch.bfloat16, enabled=is_bf16), attention:
        yield


def _validate(
    validate: Validate, pipe: DSDPipeline, ema: EMA | None, step: int, device: torch.device
) -> dict[str, float]:
    """Return the scores of the model as it would be saved now."""
    pipe.to(device)
    pipe.transformer.eval()
    with ema.swap() if ema else nullcontext():
        scores = validate(pipe, step)
    for module in pipe.transformer.modules():  # drawing leaves the outermost weights gathered with EMA values
        if isinstance(module, FSDPModule):
            module.reshard()
    pipe.transformer.train()
    for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.to("cpu")
    return scores


def _publish(base: Base, options: TrainOptions, weights: dict[str, Tensor], out: Path) -> float | None:
    """Write the checkpoint to a temporary folder, then move it into `out`, model_index.json last.

    Return what `student.save_student` returns.
    """
    part = out / ".checkpoint.part"
    shutil.rmtree(part, ignore_errors=True)
    with whole.explain_errors(out):
        try:
            kept = student.save_student(base, options, weights, part)
            whole.flush(*part.rglob("*"))
            _move(part, out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return kept


def _move(part: Path, out: Path) -> None:
    (out / "model_index.json").unlink(missing_ok=True)
    for new in sorted(part.iterdir(), key=lambda path: path.name == "model_index.json"):
        old = out / new.name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        new.replace(old)
    whole.flush(out)


def _name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def default_method() -> Method:
    """Return how DSD itself trains."""
    return Method(student.open_transformer, batch_loss, _publish)
