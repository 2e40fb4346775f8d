"""The teacher: any text-to-image `FluxPipeline`, drawing grids of panels with one seed per grid.

`Settings` says how to prompt each model. `dsd.grids.grids` checks where the panels are and stores the grids.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

from dsd.files import hub
from dsd.files.jsonl import Row
from dsd.generate.drawing import public_name
from dsd.grids.prompts import Prompt
from dsd.model import checkpoint, latents
from dsd.model import quantize as quantized
from dsd.model.canvas import MULTIPLE
from dsd.model.checkpoint import LoadError
from dsd.model.memory import Way, report_shortage
from dsd.model.pipeline import Step
from dsd.model.presets import PRESETS
from dsd.model.transformer import load_transformer

LONGEST = 512  # tokens, the limit of FluxPipeline


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for drawing with a teacher; pixels are those of one panel."""

    panel: int = 512  # `load_teacher` replaces it with the model's own, see `panel_side`
    margin: int = 8  # cropped from every side of a panel, as Subjects200K does
    steps: int = 28
    guidance: float = 3.5  # embedded; otherwise true CFG against the empty prompt, off at 1 or less
    batch: int = 4  # grids at a time
    tokens: int = LONGEST  # of a prompt; longer prompts are rejected
    tokens_of: Mapping[tuple[int, int], int] = field(default_factory=dict)  # for layouts learned with fewer

    def __post_init__(self) -> None:
        if self.panel < MULTIPLE or self.panel % MULTIPLE:
            raise ValueError(f"a panel's side must be a multiple of {MULTIPLE} pixels, got {self.panel}")
        if not 0 <= 2 * self.margin < self.panel:
            raise ValueError(f"margin must be from 0 to {(self.panel - 1) // 2} pixels, got {self.margin}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not (isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance must be 0 or more, got {self.guidance}")


SETTINGS = {name: Settings(**preset.drawing_grids) for name, preset in PRESETS.items()}


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded model and the settings to draw with."""

    pipe: FluxPipeline
    settings: Settings
    name: str
    hash: str  # of the transformer's weights
    license: str = "unknown: see the model's card"

    @property
    def stamp(self) -> Row:
        """Return the fields of a grid's row that record the model and its settings."""
        settings = {name: getattr(self.settings, name) for name in ("steps", "guidance", "margin")}
        return {"generator": self.name, "generator_hash": self.hash, "license": self.license, **settings}

    def tokens(self, prompt: Prompt) -> int:
        """Return the maximum prompt length for this grid's layout, in tokens."""
        return self.settings.tokens_of.get((prompt.rows, prompt.columns), self.settings.tokens)

    def refuse(self, prompt: Prompt) -> str | None:
        """Return why this grid cannot be drawn, or None: a longer prompt's last panels would be lost."""
        length = len(self.pipe.tokenizer_2(prompt.prompt, verbose=False).input_ids)
        if length <= self.tokens(prompt):
            return None
        return f"prompt too long: {length} tokens, the model reads {self.tokens(prompt)}"

    def draw(
        self, prompts: list[Prompt], *, on_step: Callable[[Step], None] | None = None
    ) -> list[Image.Image]:
        """Draw one grid for each prompt, one batch per layout.

        Each grid has its own noise, so it does not depend on the others, except for rounding. `on_step` is
        called with every `Step` of a batch; an exception that it raises stops the drawing.
        """
        images: dict[int, Image.Image] = {}
        for layout in dict.fromkeys((prompt.rows, prompt.columns) for prompt in prompts):
            batch = [i for i, prompt in enumerate(prompts) if (prompt.rows, prompt.columns) == layout]
            images |= zip(batch, _draw_layout(self, [prompts[i] for i in batch], on_step), strict=True)
        return [images[i] for i in range(len(prompts))]

    def stream(self, prompts: list[Prompt]) -> Iterator[Step | list[Image.Image]]:
        """Yield a `Step` after each step, whose `preview()` shows the grids so far, then the grids.

        Closing the iterator stops the drawing before the next step. The stock pipeline cannot pause, so it
        runs in a thread that waits after each step until the next item is requested.
        """
        reports, orders = SimpleQueue(), SimpleQueue()

        def on_step(step: Step) -> None:
            reports.put(step)
            if orders.get() == "stop":
                raise InterruptedError

        def work() -> None:
            try:
                reports.put(self.draw(prompts, on_step=on_step))
            except Exception as error:  # raised again below
                reports.put(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            while isinstance(report := reports.get(), Step):
                yield report
                orders.put("continue")
            if isinstance(report, Exception):
                raise report
            yield report
        finally:
            orders.put("stop")
            thread.join()


def load_teacher(
    name: str = "pocket",
    *,
    like: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    margin: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: str = "none",
    quantize: str | None = None,
) -> Teacher:
    """Open `pocket`, `flux-dev`, `flux-schnell`, or a folder or hub id of a `FluxPipeline`.

    A folder or hub id uses the settings of the preset named by `like`, which FLUX needs not; `steps`,
    `guidance` and `margin` override them. `dtype`, `device`, `offload` and `quantize` are as in
    `load_pipeline`. Raise LoadError (a ValueError) that says what to do.
    """
    preset = checkpoint.resolve(name)
    kind = _find_kind(name, like, preset.like)
    changes = {"steps": steps, "guidance": guidance, "margin": margin}
    settings = replace(SETTINGS[kind], **{name: it for name, it in changes.items() if it is not None})
    base = preset.teacher or preset.base
    device = torch.device(device or checkpoint.best_device())
    checkpoint.check_offload(offload, device)
    if quantize:
        quantized.check(quantize, offload, device)
    hub.check_source(base)
    dtype = dtype or checkpoint.torch_dtype(PRESETS[kind])
    memory = report_shortage(preset.name, device, Way(offload, quantize), teacher=True)
    with hub.explain_errors(preset.name, [base], preset.license_page), memory:
        parts = {}
        if quantize:  # a pipeline would quantize its first and last layers, too
            transformer = load_transformer(base, subfolder="transformer", dtype=dtype)
            parts = quantized.parts(transformer, quantize, device)
        pipe = FluxPipeline.from_pretrained(base, dtype=dtype, **parts, **hub.SAFE)
        _check_plain(pipe, name)
        digest = checkpoint.model_hash(pipe)
        checkpoint.place(pipe, device, offload)
    pipe.set_progress_bar_config(disable=True)
    settings = replace(settings, panel=panel_side(pipe), **taught_lengths(pipe))
    return Teacher(pipe=pipe, settings=settings, name=public_name(name), hash=digest, license=preset.license)


def taught_lengths(pipe: FluxPipeline) -> dict[str, Any]:
    """Return the text lengths that the weights learned grids with, if the tokenizer's config lists them."""
    known = pipe.tokenizer_2.init_kwargs.get("layout_tokens")
    if not known:
        return {}
    lengths = {tuple(int(n) for n in layout.split("x")): tokens for layout, tokens in known.items()}
    return {"tokens": max(lengths.values()), "tokens_of": lengths}


def panel_side(pipe: FluxPipeline) -> int:
    """Return the side of a panel in pixels: half of the model's best size, 512 for FLUX."""
    side = pipe.vae.config.sample_size
    return min(side if isinstance(side, int) else min(side), 1024) // 2


def _find_kind(name: str, like: str | None, own: str | None) -> str:
    """Return the name of the preset whose settings apply: as asked, or the model's `own`."""
    kind = like or own or name
    if name in SETTINGS and kind != name:
        raise LoadError(f"{name} has its own settings: leave out like={like!r}")
    if kind not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise LoadError(f"{name} needs settings: say which model it is like, {known}, got like={like!r}")
    return kind


def _check_plain(pipe: FluxPipeline, name: str) -> None:
    inputs, outputs = pipe.transformer.config.in_channels, pipe.transformer.config.out_channels
    if outputs not in (None, inputs):
        problem = f"{name} draws from a reference image ({inputs} input channels)"
        raise LoadError(f"{problem}: name a text-to-image model")


def _draw_layout(
    teacher: Teacher, prompts: list[Prompt], on_step: Callable[[Step], None] | None
) -> list[Image.Image]:
    """Draw prompts of one layout in one batch."""
    pipe, settings = teacher.pipe, teacher.settings
    height, width = settings.panel * prompts[0].rows, settings.panel * prompts[0].columns
    noise = _draw_noise(pipe, prompts, height, width)
    try:
        return pipe(
            [prompt.prompt for prompt in prompts],
            height=height,
            width=width,
            num_inference_steps=settings.steps,
            max_sequence_length=teacher.tokens(prompts[0]),
            latents=noise,
            callback_on_step_end=_report_steps(on_step, noise, height, width) if on_step else None,
            **guidance_settings(pipe, settings.guidance, len(prompts)),
        ).images
    finally:
        pipe.maybe_free_model_hooks()  # the pipeline skips this when a step raises


def _draw_noise(pipe: FluxPipeline, prompts: list[Prompt], height: int, width: int) -> Tensor:
    """Return the noise [B, tokens, C] that the pipeline itself would draw from these seeds."""
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    channels, dtype = pipe.transformer.config.in_channels // 4, pipe.text_encoder_2.dtype
    device = pipe._execution_device
    return pipe.prepare_latents(len(prompts), channels, height, width, dtype, device, generators)[0]


def guidance_settings(pipe: FluxPipeline, guidance: float, count: int) -> dict[str, Any]:
    """Return the pipeline arguments that apply `guidance` to `count` prompts.

    It is embedded in a distilled model; others use true CFG against the empty prompt, at twice the work, or
    no arguments at 1 or less, where it is off.
    """
    if checkpoint.has_embedded_guidance(pipe):
        return {"guidance_scale": guidance}
    return {"true_cfg_scale": guidance, "negative_prompt": [""] * count} if guidance > 1 else {}


def _report_steps(on_step: Callable[[Step], None], noise: Tensor, height: int, width: int) -> Callable:
    """Return the pipeline's callback, which passes each step from `noise` [B, tokens, C] to `on_step`."""
    before = noise

    @torch.no_grad()
    def preview(pipe: FluxPipeline, data: Tensor) -> list[Image.Image]:
        unpacked = latents.unpack(data, height, width, vae_scale=pipe.vae_scale_factor)
        return pipe.image_processor.postprocess(latents.decode(pipe.vae, unpacked))

    def report(pipe: FluxPipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict:
        nonlocal before
        start, end = (float(sigma) for sigma in pipe.scheduler.sigmas[index : index + 2])
        # a step is straight: extend it to t = 0
        data = torch.lerp(before, tensors["latents"], start / (start - end))
        before = tensors["latents"]
        on_step(Step(index, pipe.num_timesteps, lambda: preview(pipe, data)))
        return tensors

    return report
