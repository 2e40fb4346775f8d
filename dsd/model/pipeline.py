"""DSDPipeline: diffusers' `FluxControlPipeline` on the canvas `[reference | target]`, with two-way guidance.

The stock pipeline draws the same image from the same weights, if its scheduler adds no noise. This one adds
the canvas, the guidance of `dsd.model.guidance`, references that are encoded without sampling, and a loop
that can be observed and stopped at every step.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor

from dsd.model import canvas, encoding, flow, latents, presets, sampling
from dsd.model.guidance import PLAIN, Branch, combine
from dsd.model.origin import USUAL_TASKS, training_facts
from dsd.model.request import DrawingOptions, Request, check, embedded_guidance
from dsd.model.sampling import Quality
from dsd.model.speed import Speed, caching

# The most images for which a CPU evaluates all branches in one call. With pocket on one core, one call for
# three branches is 1.6 x faster for 1 image, 1.15 x for 4, and no faster for 8.
FEW = 4


@dataclass
class DSDPipelineOutput(BaseOutput):
    """The target frames (`images`), and the reference frames as the model redrew them.

    Both are PIL lists, arrays [B, H, W, 3] or tensors [B, 3, H, W] in 0..1. For output type "latent",
    `images` is the packed canvas and `references` is None. Of several references, the first is redrawn here.
    """

    images: Any
    references: Any


@dataclass(frozen=True)
class Step:
    """One finished step of `total`; `preview()` decodes the current estimate of the target frames to PIL."""

    index: int
    total: int
    preview: Callable[[], list[Image.Image]] = field(repr=False)


@dataclass
class _Drawing:
    """The state of one running call; B is the number of images."""

    latents: Tensor  # [B, tokens, C]
    condition: Tensor  # [B, tokens, C]
    texts: dict[bool, tuple[Tensor, Tensor]]  # whether there is text -> embeds [B, T, D], pooled [B, P]
    solver: SchedulerMixin
    timesteps: Tensor  # [steps], 0..1000
    positions: Tensor  # [tokens, 3]
    size: tuple[int, int]  # height, width of one frame
    together: bool  # whether the branches of a step are evaluated in one call
    number: int = field(default_factory=itertools.count().__next__)  # each drawing has a cache of its own


class DSDPipeline(FluxControlPipeline):
    """Draws the subject of a reference image in a new scene.

    Text encoders and tokenizers may be None if embeddings are passed.
    """

    _callback_tensor_inputs = ["latents"]
    batch_branches: bool | None = None  # guidance branches in one call; None: if it suits the device
    license: str = "unknown: see the model's card"  # `load_pipeline` sets the strictest of all parts
    speed, scales = Speed(), presets.SCALES  # `load_pipeline` sets both; a call uses the scales it is passed
    trained_frame: tuple[int, int] | None = None  # width, height of one frame in training, where recorded
    trained_references: int = 1  # the most references of an image in training
    trained_tasks: tuple[str, ...] = USUAL_TASKS  # of the pairs in training
    styles: tuple[Any, ...] = ()  # the style LoRAs that `dsd.model.lora` has put on it

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        *,
        image: Image.Image | list[Image.Image | list[Image.Image]] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        quality: str | Quality = "best",
        guidance_scale: float | None = None,
        image_guidance_scale: float = 1.0,
        text_guidance_scale: float = 1.0,
        guidance_start_step: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        max_sequence_length: int | None = None,
        fit: str = "crop",
        return_dict: bool = True,
    ) -> DSDPipelineOutput | tuple:
        """Draw under diffusers' names; `DrawingOptions` and `Request` in `dsd.model.request` describe them.

        `image` may be an encoded condition [B, tokens, C], or a list with the reference of each prompt, or
        with a list of its references: `image=[[front, back]]`. Raise ValueError for invalid options.
        """
        options = DrawingOptions(
            quality=quality, steps=num_inference_steps, guidance_start=guidance_start_step,
            image_guidance=image_guidance_scale, text_guidance=text_guidance_scale, guidance=guidance_scale,
            width=width, height=height, fit=fit,
        )  # fmt: skip
        is_condition = isinstance(image, Tensor)
        request = Request(
            options=options, prompt=prompt, negative_prompt=negative_prompt,
            image=None if is_condition else image, condition=image if is_condition else None,
            num_images_per_prompt=num_images_per_prompt, generator=generator, latents=latents,
            prompt_embeds=prompt_embeds, pooled_prompt_embeds=pooled_prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds, output_type=output_type,
            joint_attention_kwargs=joint_attention_kwargs, callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            max_sequence_length=max_sequence_length,
        )  # fmt: skip
        with closing(self.stream(request)) as steps:
            for output in steps:  # noqa: B007 (only the last item is the output)
                pass
        return output if return_dict else output.to_tuple()

    def stream(self, request: Request) -> Iterator[Step | DSDPipelineOutput]:
        """Yield a `Step` per step, then the `DSDPipelineOutput`; closing it stops before the next step.

        Raise ValueError at the call if this pipeline cannot serve the request.
        """
        check(request, self)
        return self._run(request)

    @property
    def frame(self) -> tuple[int, int]:
        """Return the width and height in pixels of a frame that suits the model: as trained, if known."""
        return self.trained_frame or canvas.default_frame(self.vae)

    @property
    def frame_size(self) -> int:
        """Return the longer side of `frame`."""
        return max(self.frame)

    def load_lora_weights(self, *args: Any, **options: Any) -> None:
        """Load a LoRA as diffusers does, but keep the LoRAs that are already active, and use no dropout.

        Stock loading leaves only the newest one active, and its layers in training mode: stacking a style
        would disable the published DSD LoRA. `set_adapters` works as usual: name every LoRA to be active.
        """
        active = self.get_active_adapters()
        super().load_lora_weights(*args, **options)
        self.transformer.eval()
        if active:
            self.transformer.set_adapter(list(dict.fromkeys([*active, *self.get_active_adapters()])))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save under the stock class's name, so that diffusers opens the folder without this project."""
        stock = FluxControlPipeline(**self.components)
        stock.register_to_config(**training_facts(self))
        stock.save_pretrained(save_directory, **options)

    # -- the loop

    def _run(self, request: Request) -> Iterator[Step | DSDPipelineOutput]:
        # The methods below have no_grad, which must not span a yield: it would leak into the caller.
        self._interrupt = False
        self._guidance_scale = embedded_guidance(request.options, self)
        self._joint_attention_kwargs = request.joint_attention_kwargs
        try:
            drawing = self._prepare(request)
            total = self._num_timesteps = len(drawing.timesteps)
            with caching(self, total), self.progress_bar(total=total) as bar:
                for index, timestep in enumerate(drawing.timesteps):
                    if self.interrupt:
                        break
                    preview = self._advance(request, drawing, index, timestep)
                    bar.update()
                    yield Step(index, total, preview)
            output = self._output(request, drawing)
        finally:
            self.maybe_free_model_hooks()
        yield output

    @torch.no_grad()
    def _advance(self, request: Request, drawing: _Drawing, index: int, timestep: Tensor) -> Callable:
        """Take one solver step on `drawing.latents` and return the step's preview function."""
        active = request.options.guided if index in request.options.loop.guided else PLAIN
        before = drawing.latents
        velocity = self._velocity(drawing, active, timestep)
        after = sampling.advance(drawing.solver, velocity, timestep, before, request.generator)
        if request.callback_on_step_end:
            tensors = dict.fromkeys(request.callback_on_step_end_tensor_inputs, after)  # only "latents"
            after = request.callback_on_step_end(self, index, timestep, tensors).get("latents", after)
        drawing.latents = after
        t = float(timestep) / drawing.solver.config.num_train_timesteps
        return lambda: self._preview(flow.estimate_data(before, velocity, t), drawing.size)

    # -- one evaluation of the model

    def _velocity(self, drawing: _Drawing, active: tuple[Branch, ...], timestep: Tensor) -> Tensor:
        lengths = {drawing.texts[branch.text][0].shape[1] for branch in active}
        groups = [active] if drawing.together and len(lengths) == 1 else [(branch,) for branch in active]
        rows = [slice(None)]
        if self.speed.cache:  # it must not depend on the images beside it
            rows = [slice(i, i + 1) for i in range(len(drawing.latents))]
        parts = [
            [v for group in groups for v in self._evaluate(drawing, group, timestep, row)] for row in rows
        ]
        velocities = [torch.cat(images) for images in zip(*parts, strict=True)]
        return combine(velocities, [branch.weight for branch in active])

    def _evaluate(
        self, drawing: _Drawing, group: tuple[Branch, ...], timestep: Tensor, rows: slice
    ) -> list[Tensor]:
        """Return the velocities [B, tokens, C] of some images for a group of branches, from one call."""
        condition = drawing.condition[rows]
        absent = torch.zeros_like(condition)
        conditions = torch.cat([condition if branch.image else absent for branch in group])
        noisy = drawing.latents[rows].repeat(len(group), 1, 1)
        hidden = torch.cat([noisy, conditions], dim=2)  # [G * B, tokens, 2C]
        texts = [[part[rows] for part in drawing.texts[branch.text]] for branch in group]
        embeds, pooled = (torch.cat(parts) for parts in zip(*texts, strict=True))
        guidance = self._guidance_scale
        if guidance is not None:
            guidance = torch.full([len(hidden)], guidance, device=hidden.device, dtype=torch.float32)
        names = "+".join(branch.name for branch in group)
        with self.transformer.cache_context(f"{names} of image {rows.start} of drawing {drawing.number}"):
            (velocity,) = self.transformer(
                hidden_states=hidden, encoder_hidden_states=embeds, pooled_projections=pooled,
                timestep=timestep.expand(len(hidden)).to(hidden.dtype) / 1000, guidance=guidance,
                img_ids=drawing.positions, txt_ids=drawing.positions.new_zeros(embeds.shape[1], 3),
                joint_attention_kwargs=self._joint_attention_kwargs, return_dict=False,
            )  # fmt: skip
        return list(velocity.chunk(len(group)))  # [G * B, ...] -> G x [B, tokens, C]

    # -- before the loop

    @torch.no_grad()
    def _prepare(self, request: Request) -> _Drawing:
        # Looked up once, not at every step: diffusers searches all parts for the device, which takes 2 ms.
        device = self._execution_device
        width, height = request.options.size(self.frame)
        texts = {}
        for has_text in {True, *(branch.text for branch in request.options.guided)}:
            embeds, pooled = encoding.encode_text(self, request, has_text)
            texts[has_text] = encoding.spread(embeds, request), encoding.spread(pooled, request)
        dtype = texts[True][0].dtype
        condition = encoding.encode_condition(self, request, height, width)
        condition = encoding.spread(condition, request).to(dtype)
        noise = request.latents
        if noise is None:
            noise = latents.sample_noise(self, condition, height, width, request.generator)
        elif noise.shape != condition.shape:
            shape, got = list(condition.shape), list(noise.shape)
            raise ValueError(f"latents must be {shape} (packed canvas), got {got}")
        scale = {"vae_scale": self.vae_scale_factor}
        references = latents.count_references(noise.shape[1], height, width, **scale)
        tokens = 2 * latents.count_tokens(height, width, **scale)  # not of further references
        solver, times = sampling.schedule(request.options.loop, self.scheduler, tokens, device=device)
        together = False if self.speed.cache else self.batch_branches
        if together is None:  # one call is faster while its overhead dominates
            together = device.type == "cuda" or (device.type == "cpu" and len(noise) <= FEW)
        return _Drawing(
            latents=noise.to(device, dtype), condition=condition, texts=texts, solver=solver, timesteps=times,
            positions=latents.canvas_positions(references, height, width, **scale, device=device),
            size=(height, width), together=together,
        )  # fmt: skip

    # -- after the loop

    @torch.no_grad()
    def _output(self, request: Request, drawing: _Drawing) -> DSDPipelineOutput:
        if request.output_type == "latent":
            return DSDPipelineOutput(images=drawing.latents, references=None)
        frames = canvas.split(latents.decode(self.vae, self._unpack(drawing.latents, drawing.size)))
        kind = request.output_type
        reference, target = (self.image_processor.postprocess(frame, output_type=kind) for frame in frames)
        return DSDPipelineOutput(images=target, references=reference)

    @torch.no_grad()
    def _preview(self, tokens: Tensor, size: tuple[int, int]) -> list[Image.Image]:
        _, target = canvas.split(self._unpack(tokens, size))  # decoding half the canvas takes half the time
        return self.image_processor.postprocess(latents.decode(self.vae, target), output_type="pil")

    def _unpack(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return latents.unpack_canvas(tokens, *size, vae_scale=self.vae_scale_factor)
