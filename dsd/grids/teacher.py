"""The teacher: any text-to-image pipeline, drawing grids of panels with one seed per grid.

`Settings` says how to prompt each model. `dsd.grids.grids` stores the grids.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from dsd.files import hub, missing
from dsd.files.jsonl import Row
from dsd.generate.drawing import public_name
from dsd.grids import refine as refining
from dsd.grids import tuned
from dsd.grids.gutters import Box, equal_boxes, find_panels
from dsd.grids.noise import correlate_panels
from dsd.grids.prompts import Prompt
from dsd.grids.settings import (
    SETTINGS,
    Settings,
    guidance_settings,
    panel_side,
    taught_lengths,
    text_tokenizer,
)
from dsd.model import checkpoint, latents, origin
from dsd.model import quantize as quantized
from dsd.model.checkpoint import LoadError
from dsd.model.memory import Way, report_shortage
from dsd.model.pipeline import Step
from dsd.model.presets import TEACHERS, Preset
from dsd.model.transformer import is_widened


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded model and the settings to draw with."""

    pipe: DiffusionPipeline
    settings: Settings
    name: str
    hash: str  # of the transformer's weights
    license: str = Preset.license
    lora: origin.Facts | None = None  # of a LoRA that it draws with

    @property
    def stamp(self) -> Row:
        """Return the fields of a grid's row that record the model and its settings."""
        settings = {name: getattr(self.settings, name) for name in ("steps", "guidance", "margin", "panel")}
        made_by = {"generator": self.name, "generator_hash": self.hash, "license": self.license}
        optional = {name: getattr(self.settings, name) for name in ("shared_noise", "refine")}
        optional["teacher_lora"] = self.lora
        return made_by | settings | {name: value for name, value in optional.items() if value}

    def tokens(self, prompt: Prompt) -> int:
        """Return the maximum prompt length for this grid's layout, in tokens."""
        return self.settings.tokens_of.get((prompt.rows, prompt.columns), self.settings.tokens)

    def refuse(self, prompt: Prompt) -> str | None:
        """Return why this grid cannot be drawn, or its panels not be drawn again, or None."""
        length = len(text_tokenizer(self.pipe)(prompt.prompt, verbose=False).input_ids)
        if length <= self.tokens(prompt):
            return refining.refuse(self.pipe, self.settings, prompt) if self.settings.refine else None
        return f"prompt too long: {length} tokens, the model reads {self.tokens(prompt)}"

    def find_panels(self, image: Image.Image, prompt: Prompt) -> list[Box] | str:
        """Return the boxes of a grid's panels in reading order, or the reason why there are none."""
        find = equal_boxes if self.settings.equal_parts else find_panels
        return find(image, prompt.rows, prompt.columns)

    def refine(
        self, images: list[Image.Image], prompts: list[Prompt], boxes: list[list[Box] | str]
    ) -> list[Image.Image]:
        """Draw the panels of the accepted grids again, each from its own words, if the settings say so."""
        if not self.settings.refine:
            return images
        try:
            pipe = refining.image_pipeline(self.pipe, self.name)
            return refining.refine(pipe, self.settings, images, prompts, boxes)
        finally:
            self.pipe.maybe_free_model_hooks()  # they belong to the pipeline that was loaded

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

        Only a FLUX.1 has previews; those of other models are empty lists.
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
    panel: int | None = None,
    shared_noise: float | None = None,
    refine: float | None = None,
    batch: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: str = "none",
    quantize: str | None = None,
    lora: str | None = None,
) -> Teacher:
    """Open a preset of `TEACHERS`, or a folder or hub id of a text-to-image pipeline of diffusers.

    A folder or hub id uses the settings of its family, or of the preset named by `like`; `steps`, `guidance`,
    `margin`, `panel`, `shared_noise`, `refine` and `batch` override them. `dtype`, `device`, `offload` and
    `quantize` are as in `load_pipeline`. `lora` puts a LoRA on a FLUX.1 teacher: FILE_OR_ID or
    FILE_OR_ID:SCALE. Raise LoadError (a ValueError) that says what to do.
    """
    preset = checkpoint.resolve(name, TEACHERS)
    kind = _find_kind(name, like, preset.like)
    changes = {"steps": steps, "guidance": guidance, "margin": margin, "panel": panel}
    changes |= {"shared_noise": shared_noise, "refine": refine, "batch": batch}
    settings = replace(SETTINGS[kind], **{k: value for k, value in changes.items() if value is not None})
    base = preset.teacher or preset.base
    device = torch.device(device or checkpoint.best_device())
    checkpoint.check_offload(offload, device)
    if quantize:
        quantized.check(quantize, offload, device)
    hub.check_source(base)
    dtype = dtype or checkpoint.torch_dtype(TEACHERS[kind])
    memory = report_shortage(preset.name, device, Way(offload, quantize), teacher=True)
    errors = hub.explain_errors(preset.name, [base], preset.license_page)
    with errors, hub.offline_if_unreachable(base), memory:
        parts = quantized.pipeline_parts(base, quantize, dtype) if quantize else {}
        pipe = AutoPipelineForText2Image.from_pretrained(base, dtype=dtype, **parts, **hub.SAFE)
        _check(pipe, name, settings)
        missing.check_parts(pipe, base)
        added = tuned.add_lora(pipe, lora) if lora else None
        if quantize:
            quantized.shrink(pipe, quantize, device)
        digest = checkpoint.model_hash(pipe)
        checkpoint.place(pipe, device, offload)
    pipe.set_progress_bar_config(disable=True)
    side = panel or panel_side(pipe, settings.panel)
    settings = replace(settings, panel=side, **taught_lengths(pipe))
    license = origin.strictest([preset.license, *([added["license"]] if added else [])])
    about = {"name": public_name(name), "hash": digest, "license": license, "lora": added}
    return Teacher(pipe=pipe, settings=settings, **about)


def _find_kind(name: str, like: str | None, own: str | None) -> str:
    """Return the name of the preset whose settings apply: as asked, or the model's `own`."""
    kind = like or own or name
    if name in SETTINGS and kind != name:
        raise LoadError(f"{name} has its own settings: leave out like={like!r}")
    if kind not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise LoadError(f"{name} needs settings: say which model it is like, {known}, got like={like!r}")
    return kind


def _check(pipe: DiffusionPipeline, name: str, settings: Settings) -> None:
    """Raise LoadError if the pipeline cannot draw with these settings, or needs a reference image."""
    transformer = getattr(pipe, "transformer", None)
    if isinstance(transformer, FluxTransformer2DModel) and is_widened(transformer):
        problem = f"{name} draws from a reference image ({transformer.config.in_channels} input channels)"
        raise LoadError(f"{problem}: name a text-to-image model")
    needs = {"height", "width", "num_inference_steps", "max_sequence_length", "generator"}
    needs.add(settings.guidance_name)
    if lacks := sorted(needs - inspect.signature(type(pipe).__call__).parameters.keys()):
        problem = f"{name} is a {type(pipe).__name__}, which has no {lacks[0]}"
        raise LoadError(f"{problem}: name a model of another family, such as {', '.join(TEACHERS)}")
    if settings.shared_noise and not isinstance(pipe, FluxPipeline):
        problem = f"{name} is a {type(pipe).__name__}, and shared noise is made for a FluxPipeline"
        raise LoadError(f"{problem}: pass --shared-noise 0, or name a FLUX.1 model")
    if settings.refine:
        refining.image_pipeline(pipe, name)  # raises if there is none


def _draw_layout(
    teacher: Teacher, prompts: list[Prompt], on_step: Callable[[Step], None] | None
) -> list[Image.Image]:
    """Draw prompts of one layout in one batch."""
    pipe, settings = teacher.pipe, teacher.settings
    height, width = settings.panel * prompts[0].rows, settings.panel * prompts[0].columns
    noise = _draw_noise(pipe, settings, prompts, height, width) if isinstance(pipe, FluxPipeline) else None
    report = _report_steps(pipe, on_step, noise, height, width) if on_step else None
    given = {"latents": noise} if settings.shared_noise else {}
    try:
        return pipe(
            prompt=[prompt.prompt for prompt in prompts],
            height=height,
            width=width,
            num_inference_steps=settings.steps,
            max_sequence_length=teacher.tokens(prompts[0]) + settings.template,
            generator=_generators(prompts),
            callback_on_step_end=report,
            **given,
            **guidance_settings(pipe, settings.guidance, len(prompts), settings.guidance_name),
        ).images
    finally:
        pipe.maybe_free_model_hooks()  # the pipeline skips this when a step raises


def _generators(prompts: list[Prompt]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]


def _draw_noise(
    pipe: FluxPipeline, settings: Settings, prompts: list[Prompt], height: int, width: int
) -> Tensor:
    """Return the noise [B, tokens, C] that the pipeline itself draws from these seeds, shared as set."""
    channels, dtype = pipe.transformer.config.in_channels // 4, pipe.text_encoder_2.dtype
    size = len(prompts), channels, height, width
    noise, _ = pipe.prepare_latents(*size, dtype, pipe._execution_device, _generators(prompts))
    return correlate_panels(noise, prompts[0].rows, prompts[0].columns, settings.shared_noise)


def _report_steps(
    pipe: DiffusionPipeline, on_step: Callable[[Step], None], noise: Tensor | None, height: int, width: int
) -> Callable:
    """Return the pipeline's callback, which passes each step to `on_step`; no `noise`: without previews."""
    before = noise

    @torch.no_grad()
    def preview(data: Tensor) -> list[Image.Image]:
        unpacked = latents.unpack(data, height, width, vae_scale=pipe.vae_scale_factor)
        return pipe.image_processor.postprocess(latents.decode(pipe.vae, unpacked))

    def report(pipe: DiffusionPipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict:
        nonlocal before
        if before is None:
            on_step(Step(index, pipe.num_timesteps, list))
            return tensors
        start, end = (float(sigma) for sigma in pipe.scheduler.sigmas[index : index + 2])
        # a step is straight: extend it to t = 0
        data = torch.lerp(before, tensors["latents"], start / (start - end))
        before = tensors["latents"]
        on_step(Step(index, pipe.num_timesteps, lambda: preview(data)))
        return tensors

    return report
