"""A text-to-image transformer that draws one frame and is shown a reference: its training, file and drawing.

The baselines built on it differ from each other only in how the reference gets in. They train the same
weights as our method, on the same batches, and are drawn with the same guidance. The latents of the reference
and the target are the two halves of our canvas, so the data are encoded once for all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dsd.evaluation.scores import Draw
from dsd.files import jsonl
from dsd.model import canvas, encoding, flow, latents, sampling
from dsd.model.guidance import PLAIN, Branch, branches, combine
from dsd.model.pipeline import DSDPipeline
from dsd.model.sampling import Quality
from dsd.model.transformer import load_transformer
from dsd.training.batches import Batch
from dsd.training.loop import Method
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.student import Base, lora_config

WEIGHTS = "trained.safetensors"


class SingleFrame(nn.Module):
    """A transformer of one frame, called as `model(x_t, seen, **inputs)`; `seen` is what `see` returns."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    @property
    def config(self) -> Any:
        return self.transformer.config

    def added(self) -> list[nn.Parameter]:
        """Return the weights that the text-to-image model lacks; they are trained even beside a LoRA."""
        return []

    def see(self, reference: Tensor, size: tuple[int, int]) -> Tensor:
        """Return what the model reads of a reference [B, tokens, C]: zeros stand for no reference.

        `size` is the frame's height and width in pixels. Nothing here is trained.
        """
        return reference


Wrap = Callable[[FluxTransformer2DModel, Base], SingleFrame]


def method(wrap: Wrap) -> Method:
    """Return how `dsd.training.loop.train` trains the model that `wrap` makes of the teacher."""

    def open_model(
        base: Base, options: TrainOptions, dtype: torch.dtype, device: torch.device
    ) -> SingleFrame:
        return open_trainable(wrap, base, options, dtype)

    return Method(open_model, loss, save_weights)


def open_trainable(wrap: Wrap, base: Base, options: TrainOptions, dtype: torch.dtype) -> SingleFrame:
    """Return the model with all weights of the teacher trainable, or a LoRA on it, and what `wrap` adds."""
    if options.quantize:
        raise TrainingError(f"--quantize {options.quantize} is not for baselines: drop it")
    torch.manual_seed(options.seed)  # for the added weights and the LoRA's A matrices
    kind = torch.float32 if options.full else dtype
    transformer = load_transformer(base.source, subfolder="transformer", dtype=kind)
    model = wrap(transformer.requires_grad_(options.full), base).train()
    if not options.full:
        model.transformer.add_adapter(lora_config(options))
    if options.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    for weight in model.added():
        weight.requires_grad_(True)
    for weight in trained(model).values():
        weight.data = weight.data.float()
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_weights(base: Base, options: TrainOptions, weights: dict[str, Tensor], out: Path) -> None:
    """Write the trained weights to one file in `out`."""
    jsonl.write_atomic(out / WEIGHTS, save({name: it.contiguous() for name, it in weights.items()}))


def load(wrap: Wrap, base: Base, options: TrainOptions, folder: Path, dtype: torch.dtype) -> SingleFrame:
    """Return the trained model of a folder; raise ValueError if its weights are not those of `options`."""
    model = open_trainable(wrap, base, options, dtype)
    weights = load_file(folder / WEIGHTS)
    if wrong := weights.keys() ^ trained(model).keys():
        raise ValueError(f"{folder / WEIGHTS} was trained with other settings: it differs in {min(wrong)}")
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------- training


def loss(model: nn.Module, batch: Batch, options: TrainOptions, pipe: DSDPipeline) -> Tensor:
    """Return the mean squared error of the predicted velocities of the target frame."""
    width, height = batch.frame
    scale, device = pipe.vae_scale_factor, batch.data.device
    data, noise = (split(tokens, (height, width), scale)[1] for tokens in (batch.data, batch.noise))
    reference, _ = split(batch.condition, (height, width), scale)
    with torch.no_grad():
        seen = pipe.transformer.see(reference, (height, width))
    positions = latents.positions(height, width, vae_scale=scale, device=device)
    guidance = options.guidance if pipe.transformer.config.guidance_embeds else None
    inputs = transformer_inputs(batch.t, (batch.embeds, batch.pooled), positions, guidance)
    velocity = model(flow.interpolate(data, noise, batch.t), seen, **inputs)
    return flow.loss(velocity, flow.velocity(data, noise))


def split(tokens: Tensor, size: tuple[int, int], scale: int) -> tuple[Tensor, Tensor]:
    """Split packed tokens [B, n, C] of a canvas into those of its two frames, of `size` pixels each."""
    rows, columns = (side // (2 * scale) for side in size)
    lines = tokens.unflatten(1, (rows, 2, columns))  # [B, rows, 2, columns, C]
    return lines[:, :, 0].flatten(1, 2), lines[:, :, 1].flatten(1, 2)


def transformer_inputs(
    t: Tensor, texts: tuple[Tensor, Tensor], positions: Tensor, guidance: float | None
) -> dict[str, Any]:
    """Return the keyword arguments of a FLUX transformer besides its noisy tokens."""
    embeds, pooled = texts
    return {
        "timestep": t,
        "guidance": None if guidance is None else torch.full_like(t, guidance),
        "encoder_hidden_states": embeds,
        "pooled_projections": pooled,
        "txt_ids": positions.new_zeros(embeds.shape[1], 3),
        "img_ids": positions,
        "return_dict": False,
    }


# ---------------------------------------------------------------- drawing


def by_single_frame(
    pipe: DSDPipeline,
    model: SingleFrame,
    *,
    steps: int = 28,
    image_guidance: float = 1.5,
    text_guidance: float = 1.0,
    guidance: float | None = None,
) -> Draw:
    """Return a `Draw` with the loop and the two-way guidance of our pipeline, on one frame.

    `pipe` holds all parts but the transformer, on the model's device. `guidance` is the embedded one.
    """
    loop = Quality(steps=steps)
    guided = branches(image_guidance, text_guidance)

    @torch.no_grad()
    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        side, scale, count = pipe.frame_size, pipe.vae_scale_factor, len(prompts)
        frames = [[canvas.fit(image, side, side)] for image in references]
        reference, _ = split(encoding.encode_frames(pipe, frames), (side, side), scale)
        texts = {True: encode_texts(pipe, prompts), False: encode_texts(pipe, [""] * count)}
        seen = {True: model.see(reference, (side, side))}
        seen[False] = model.see(torch.zeros_like(reference), (side, side))
        positions = latents.positions(side, side, vae_scale=scale, device=reference.device)

        def velocity(branch: Branch, x: Tensor, t: Tensor) -> Tensor:
            inputs = transformer_inputs(t.expand(count), texts[branch.text], positions, guidance)
            return model(x, seen[branch.image], **inputs)

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = _noise(pipe, generators, reference)
        solver, times = sampling.schedule(loop, pipe.scheduler, x.shape[1], device=x.device)
        for index, time in enumerate(times):
            active = guided if index in loop.guided else PLAIN
            t = time.to(x.dtype) / solver.config.num_train_timesteps
            predicted = combine([velocity(one, x, t) for one in active], [one.weight for one in active])
            x = sampling.advance(solver, predicted, time, x, generators)
        pixels = latents.decode(pipe.vae, latents.unpack(x, side, side, vae_scale=scale))
        return pipe.image_processor.postprocess(pixels, output_type="pil")

    return draw


def _noise(pipe: DSDPipeline, generators: list[torch.Generator], like: Tensor) -> Tensor:
    """Return the noise [B, tokens, C] that the stock pipelines draw from these generators."""
    size, channels = (pipe.frame_size, pipe.frame_size), like.shape[-1] // 4
    return pipe.prepare_latents(len(generators), channels, *size, like.dtype, like.device, generators)[0]


def encode_texts(pipe: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Return embeddings [B, T, D] and pooled ones [B, P], of the length that the pipeline reads."""
    length = latents.text_length(pipe.tokenizer_2)
    device = pipe.text_encoder.device
    return pipe.encode_prompt(prompts, None, device=device, max_sequence_length=length)[:2]
