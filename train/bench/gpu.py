"""Time and memory of FLUX.1-dev's architecture on a GPU: part of `python -m train.bench inference`.

The weights are random, so that no license and no download is needed; time and memory do not depend on their
values. Without CUDA each row says that it was not measured. A row that does not fit into GPU memory, or that
needs a missing package, says so, and the others continue.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.files.jsonl import Row
from dsd.model import checkpoint, flow, latents, presets
from dsd.model.pipeline import DSDPipeline
from dsd.model.request import DrawingOptions, Request
from dsd.training.options import TrainOptions
from dsd.training.student import make_trainable, quantize

FRAMES = (512, 768)  # pixels
TEXT = 512  # tokens
RANK = 128
# FLUX.1-dev's config.json, widened by input columns for the reference.
TRANSFORMER = {
    "in_channels": 128, "out_channels": 64, "num_layers": 19, "num_single_layers": 38,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
CLIP = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16,
    "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False,
    "use_post_quant_conv": False,
}  # fmt: skip
SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}


@contextmanager
def _made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Create new tensors on `device` and in `dtype`, so that no second copy of the weights is needed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def transformer(device: torch.device, sizes: dict = TRANSFORMER) -> FluxTransformer2DModel:
    with _made_in(device, _dtype(device)):
        return FluxTransformer2DModel(**sizes).eval().requires_grad_(False)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" and not torch.cuda.is_available() else torch.bfloat16


def pipeline(device: torch.device, sizes: tuple = (TRANSFORMER, T5, CLIP, VAE)) -> DSDPipeline:
    """Return a whole pipeline with pocket's tokenizers, whose small vocabulary fits every text encoder."""
    flux, t5, clip, vae = sizes
    student = Path(presets.ASSETS, "student")
    tokenizers = {
        "tokenizer": AutoTokenizer.from_pretrained(student / "tokenizer"),
        "tokenizer_2": AutoTokenizer.from_pretrained(student / "tokenizer_2"),
    }
    with _made_in(device, _dtype(device)):
        models = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)).eval(),
            "text_encoder_2": T5EncoderModel(T5Config(**t5)).eval(),
            "vae": AutoencoderKL(**vae).eval(),
        }
    pipe = DSDPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        transformer=transformer(device, flux),
        **models,
        **tokenizers,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------- one evaluation


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


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Return the seconds of the shortest of `rounds` rounds, after a warm-up round."""
    times = []
    for _ in range(rounds + 1):
        began = _now()
        work()
        times.append(_now() - began)
    return min(times[1:])


def _now() -> float:
    """Return the time after the GPU has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(device: torch.device, size: int = 8192) -> float:
    """Return the FLOP/s of a large bf16 matrix product: what the GPU achieves, not its advertised peak."""
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: one @ one)


@torch.no_grad()
def evaluation_rows(model: FluxTransformer2DModel, frames: tuple[int, ...], most: float) -> Iterator[Row]:
    """Yield seconds per evaluation and share of `most` FLOP/s, without and with compiled blocks."""
    flops = {}
    for side in frames:
        given = inputs(model, side)
        with FlopCounterMode(display=False) as counter:
            model(**given)
        flops[side] = counter.get_total_flops()
        yield _evaluation(model, given, side, flops[side], most, compiled=False)
    model.compile_repeated_blocks(fullgraph=True, dynamic=True)  # as `dsd.model.compile` does
    for side in frames:
        yield _evaluation(model, inputs(model, side), side, flops[side], most, compiled=True)


def _evaluation(model: nn.Module, given: dict, side: int, flops: int, most: float, *, compiled: bool) -> Row:
    took = seconds(lambda: model(**given))
    return {
        "part": "evaluation", "frame": side, "compiled": compiled, "s": round(took, 4),
        "TFLOP": round(flops / 1e12, 2), "share of a matrix product's speed": round(flops / took / most, 3),
    }  # fmt: skip


# ---------------------------------------------------------------- memory of drawing


def offload_rows(
    make: Callable[[torch.device], DSDPipeline], device: torch.device, offload: str, side: int
) -> Iterator[Row]:
    """Yield peak memory and seconds per step of one image without guidance."""
    pipe = make(device)  # on the GPU, where random numbers take no time
    pipe = checkpoint.place(pipe if offload == "none" else pipe.to("cpu"), device, offload)
    yield {"part": "offload", "offload": offload, **_drawn(pipe, side)}


def quantized_rows(model: FluxTransformer2DModel, bits: str, side: int) -> Iterator[Row]:
    """Yield inference and training of the transformer alone in 8 or 4 bits on the GPU, on encoded inputs."""
    small = _in_bits(model, bits)
    given = inputs(small, side)
    _forget()
    with torch.no_grad():
        took = seconds(lambda: small(**given))
    yield {"part": "quantized", "weights": bits, "frame": side, "s": round(took, 4), **_peak()}
    yield from training_rows(small, side, checkpointing=True, base=bits)


def _in_bits(model: FluxTransformer2DModel, bits: str) -> FluxTransformer2DModel:
    device = model.proj_out.weight.device
    whole = model.cpu() if bits == "8bit" else model  # 8-bit weights are made only on the move to the GPU
    return quantize(whole, bits, model.dtype, device)


def _drawn(pipe: DSDPipeline, side: int, steps: int = 4) -> Row:
    _forget()
    options = DrawingOptions(steps=steps, height=side, width=side)
    reference = Image.new("RGB", (side, side))
    request = Request(options=options, prompt="a red hat", image=reference, max_sequence_length=TEXT)
    stamps = [_now() for _ in pipe.stream(request)]
    each = (stamps[-2] - stamps[0]) / (steps - 1)  # the last stamp is the decoded image's
    return {"frame": side, "s a step": round(each, 4), **_peak()}


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> Row:
    return {"peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if torch.cuda.is_available() else {}


# ---------------------------------------------------------------- training


def training_rows(
    model: FluxTransformer2DModel, side: int, *, checkpointing: bool, base: str, rank: int = RANK
) -> Iterator[Row]:
    """Yield the cost of a step of one pair with AdamW: LoRA and new columns in float32 on a frozen base.

    `base` names the type of the frozen weights.
    """
    options = TrainOptions(rank=rank, full=False, gradient_checkpointing=checkpointing)
    device = model.proj_out.weight.device
    make_trainable(model, options)
    torch.backends.cuda.enable_cudnn_sdp(False)  # see `dsd.training.student.without_cudnn_attention`
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    given = inputs(model, side)
    _forget()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            predicted: Tensor = model(**given)[0]
        flow.loss(predicted, torch.zeros_like(predicted)).backward()
        optimizer.step()
        optimizer.zero_grad()

    took = seconds(step, 3)
    yield {
        "part": "training", "rank": rank, "frame": side, "checkpointing": checkpointing, "base": base,
        "s a step": round(took, 4), **_peak(),
    }  # fmt: skip


# ---------------------------------------------------------------- all rows


def gpu_rows(frames: tuple[int, ...] = FRAMES) -> Iterator[Row]:
    """Yield every row; without CUDA, one row for each part that says that it was not measured."""
    if not torch.cuda.is_available():
        for part in ("evaluation", "offload", "quantized", "training"):
            yield {"part": part, "measured": False, "why": "no CUDA"}
        return
    device, side = torch.device("cuda"), frames[0]
    most = peak(device)
    card = torch.cuda.get_device_name()
    yield {"part": "card", "device": card, "matrix product, TFLOP/s": round(most / 1e12)}
    yield from _tried("evaluation", lambda: evaluation_rows(transformer(device), frames, most))
    for thrifty in (False, True):
        yield from _tried(
            "training",
            lambda c=thrifty: training_rows(transformer(device), side, checkpointing=c, base="bf16"),
            base="bf16",
            checkpointing=thrifty,
        )
    for bits in ("4bit", "8bit"):
        yield from _tried(
            "quantized", lambda b=bits: quantized_rows(transformer(device), b, side), weights=bits
        )
    for offload in checkpoint.OFFLOADS:
        yield from _tried(
            "offload", lambda o=offload: offload_rows(pipeline, device, o, side), offload=offload
        )


def _tried(part: str, rows: Callable[[], Iterator[Row]], **about: object) -> Iterator[Row]:
    """Yield the rows, or one that says why there are none: out of memory, or a missing package."""
    try:
        yield from rows()
    except (RuntimeError, ValueError, ImportError) as error:
        yield {"part": part, **about, "measured": False, "why": str(error).splitlines()[0]}
    finally:
        _forget()
