"""Time and memory of FLUX.1-dev's architecture on a GPU: part of `python -m train.bench inference`.

The weights are random, so that no license and no download is needed; time and memory do not depend on their
values. A row that does not fit into GPU memory, or needs what is not there, says so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from torch.nn.attention import sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.files.jsonl import Row
from dsd.model import checkpoint, flow, latents, presets
from dsd.model.pipeline import DSDPipeline
from dsd.training.options import TrainOptions
from dsd.training.student import KERNELS, make_trainable, quantize
from train.bench.timing import clock, forget_peak, peak_bytes, shortest

FRAMES = (512, 768)  # pixels
TEXT = 512  # tokens
RANK = 128
# FLUX.1-dev's config.json where it differs from the classes' defaults, widened by columns for the reference.
TRANSFORMER = {"in_channels": 128, "out_channels": 64, "guidance_embeds": True}
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16,
    "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False,
    "use_post_quant_conv": False,
}  # fmt: skip
Build = Callable[[], FluxTransformer2DModel]
SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}


@contextmanager
def created_on(device: torch.device) -> Iterator[None]:
    """Create new weights on `device`, in bf16 on a GPU, so that no second copy of them is needed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def transformer(device: torch.device, sizes: dict = TRANSFORMER) -> FluxTransformer2DModel:
    with created_on(device):
        return FluxTransformer2DModel(**sizes).eval().requires_grad_(False)


def pipeline(device: torch.device, sizes: tuple = (TRANSFORMER, T5, CLIP, VAE)) -> DSDPipeline:
    """Return a whole pipeline with pocket's tokenizers, whose small vocabulary fits every text encoder."""
    flux, t5, clip, vae = sizes
    student = Path(presets.ASSETS, "student")
    with created_on(device):
        pipe = DSDPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            transformer=transformer(device, flux),
            text_encoder=CLIPTextModel(CLIPTextConfig(**clip)).eval(),
            text_encoder_2=T5EncoderModel(T5Config(**t5)).eval(),
            vae=AutoencoderKL(**vae).eval(),
            tokenizer=AutoTokenizer.from_pretrained(student / "tokenizer"),
            tokenizer_2=AutoTokenizer.from_pretrained(student / "tokenizer_2"),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs(model: FluxTransformer2DModel, side: int, text: int = TEXT) -> dict[str, Any]:
    """Return the transformer's inputs for one branch of one image, at t = 0.5."""
    weight, config = model.proj_out.weight, model.config
    make = {"device": weight.device, "dtype": weight.dtype}
    tokens = 2 * (side // 16) ** 2
    return {
        "hidden_states": torch.randn(1, tokens, config.in_channels, **make),
        "encoder_hidden_states": torch.randn(1, text, config.joint_attention_dim, **make),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim, **make),
        "timestep": torch.tensor([0.5], **make),
        "guidance": torch.tensor([3.5], device=weight.device) if config.guidance_embeds else None,
        "img_ids": latents.positions(side, 2 * side, device=weight.device),
        "txt_ids": torch.zeros(text, 3, device=weight.device),
        "return_dict": False,
    }


def product_speed(device: torch.device, size: int = 8192) -> float:
    """Return the FLOP/s of a large bf16 matrix product: what the GPU achieves, not its advertised peak."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / shortest(lambda: matrix @ matrix)


@torch.no_grad()
def evaluation_rows(build: Build, frames: tuple[int, ...], most: float) -> Iterator[Row]:
    """Yield seconds per evaluation and share of `most` FLOP/s, without and with compiled blocks."""
    model, flops = build(), {}
    for side in frames:
        with FlopCounterMode(display=False) as counter:
            model(**inputs(model, side))
        flops[side] = counter.get_total_flops()
    for compiled in (False, True):
        if compiled:
            model.compile_repeated_blocks(fullgraph=True, dynamic=True)  # as `dsd.model.compile` does
        for side in frames:
            seconds = shortest(partial(model, **inputs(model, side)))
            yield {
                "part": "evaluation", "frame": side, "compiled": compiled, "s": round(seconds, 4),
                "TFLOP": round(flops[side] / 1e12, 2),
                "share of a matrix product's speed": round(flops[side] / seconds / most, 3),
            }  # fmt: skip


def offload_rows(
    build: Callable[[], DSDPipeline], device: torch.device, offload: str, side: int
) -> Iterator[Row]:
    """Yield peak memory and seconds per step of one image without guidance."""
    pipe = build()  # on the GPU, where random numbers take no time
    pipe = checkpoint.place(pipe if offload == "none" else pipe.to("cpu"), device, offload)

    def draw(steps: int) -> None:
        image, sizes = Image.new("RGB", (side, side)), {"height": side, "width": side}
        pipe("a red hat", image=image, num_inference_steps=steps, max_sequence_length=TEXT, **sizes)

    draw(1)  # the first image is slower
    forget_peak()
    few, many = (clock(partial(draw, steps))[1].wall for steps in (1, 5))
    step = round((many - few) / 4, 4)
    yield {"part": "offload", "offload": offload, "frame": side, "s a step": step, **_peak()}


def quantized_rows(build: Build, bits: str, side: int) -> Iterator[Row]:
    """Yield inference and training of the transformer alone in 8 or 4 bits on the GPU, on encoded inputs."""
    model = build()
    device = model.proj_out.weight.device
    whole = model.cpu() if bits == "8bit" else model  # 8-bit weights are made only on the move to the GPU
    small = quantize(whole, bits, model.dtype, device)
    forget_peak()
    with torch.no_grad():
        seconds = shortest(partial(small, **inputs(small, side)))
    yield {"part": "quantized", "weights": bits, "frame": side, "s": round(seconds, 4), **_peak()}
    yield from training_rows(lambda: small, side, checkpointing=True, base=bits)


def _peak() -> Row:
    return {"peak GB": round(peak_bytes() / 1e9, 2)}


def training_rows(
    build: Build, side: int, *, checkpointing: bool, base: str, rank: int = RANK
) -> Iterator[Row]:
    """Yield the cost of a step of one pair with AdamW: LoRA and new columns in float32 on a frozen `base`."""
    model = build()
    make_trainable(model, TrainOptions(rank=rank, full=False, gradient_checkpointing=checkpointing))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    arguments = inputs(model, side)
    forget_peak()

    @sdpa_kernel(KERNELS)
    def step() -> None:
        with torch.autocast(model.proj_out.weight.device.type, torch.bfloat16):
            velocity = model(**arguments)[0]
        flow.loss(velocity, torch.zeros_like(velocity)).backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = shortest(step, 3)
    yield {
        "part": "training", "rank": rank, "frame": side, "checkpointing": checkpointing, "base": base,
        "s a step": round(seconds, 4), **_peak(),
    }  # fmt: skip


def gpu_rows() -> Iterator[Row]:
    """Yield every row; without CUDA, one row for each part that says that it was not measured."""
    if not torch.cuda.is_available():
        for part in ("evaluation", "offload", "quantized", "training"):
            yield {"part": part, "measured": False, "why": "no CUDA"}
        return
    device, side = torch.device("cuda"), FRAMES[0]
    most, build = product_speed(device), partial(transformer, device)
    card = torch.cuda.get_device_name()
    yield {"part": "card", "device": card, "matrix product, TFLOP/s": round(most / 1e12)}
    yield from catch_failure(evaluation_rows(build, FRAMES, most), part="evaluation")
    for checkpointing in (False, True):
        options = {"base": "bf16", "checkpointing": checkpointing}
        yield from catch_failure(training_rows(build, side, **options), part="training", **options)
    for bits in ("4bit", "8bit"):
        yield from catch_failure(quantized_rows(build, bits, side), part="quantized", weights=bits)
    for offload in checkpoint.OFFLOADS:
        rows = offload_rows(partial(pipeline, device), device, offload, side)
        yield from catch_failure(rows, part="offload", offload=offload)


def catch_failure(rows: Iterator[Row], **about: object) -> Iterator[Row]:
    """Yield the rows, or one that says why there are none: out of memory, or a missing package."""
    try:
        yield from rows
    except (RuntimeError, ValueError, ImportError) as error:
        yield about | describe_failure(error)
    finally:
        forget_peak()


def describe_failure(error: Exception) -> Row:
    """Return what a row says in place of figures: the first line of the error, or its type if it has none."""
    return {"measured": False, "why": (str(error).splitlines() or [type(error).__name__])[0][:300]}
