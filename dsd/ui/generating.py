"""What happens behind the Generate tab: from what a page sends to what it shows. No layout, no maths.

Handlers take the page's raw values, so everything a visitor can get wrong ends here in a sentence. What a
visitor writes is escaped before it goes back into HTML.
"""

import html
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd import checkpoint, diptych, generate, intake, provenance
from dsd.generate import Options, Progress
from dsd.guidance import branches
from dsd.quality import QUALITIES
from dsd.ui import uploads
from dsd.ui.loaded import Loaded
from dsd.ui.messages import done, explained, notice, problem, status, time_left

OFFERED = {"steps": (1, 100), "image_guidance": (0, 10), "text_guidance": (0, 10), "guidance": (0, 10)}
PREVIEW_SECONDS = 0.4
SECONDS_PER_EVALUATION = 0.35  # of a 512-pixel frame on a ZeroGPU device: an allowance, not a measurement
START_SECONDS = 15  # text, reference and decoding


def gpu_seconds(image: Image.Image, options: Options) -> int:
    """What to ask of ZeroGPU: a visitor's quota refuses a call that asks for more than is left."""
    area = (options.width or 512) * (options.height or 512) / 512**2
    return round(START_SECONDS + SECONDS_PER_EVALUATION * evaluations(options) * max(0.25, area))


def evaluations(options: Options) -> int:
    """How often all pictures together need the model: once a step, and more where guidance acts."""
    plan = options.plan
    more = len(branches(options.image_guidance, options.text_guidance)) - 1
    return options.count * (plan.steps + more * len(plan.guided))


class Generating:
    """The handlers of one loaded model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.has_guidance = checkpoint.has_embedded_guidance(loaded.pipe)
        # Now, in the main thread: on ZeroGPU a visitor's thread finds no weights where it looks for them.
        self.model_hash = checkpoint.model_hash(loaded.pipe)

        # A plain function, because ZeroGPU runs it in another process: pictures and numbers go in and out,
        # and it yields at every step, because that is where the other process learns of a cancel.
        @spaces.GPU(duration=gpu_seconds)
        def steps(image: Image.Image, options: Options) -> Iterator[Progress]:
            try:
                yield from generate.stream(
                    loaded.pipe,
                    image,
                    options,
                    model=loaded.name,
                    weights=loaded.weights,
                    preview_seconds=PREVIEW_SECONDS,
                )
            except (ValueError, RuntimeError) as error:  # other errors would arrive without their message
                raise gr.Error(html.escape(explained(error)), print_exception=False) from error

        self._steps = steps

    def draw(self, image: str | None, prompt: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """For the page: yields (pictures, redrawn references, status, seed) at every step."""
        *settings, new_seed = values
        try:
            picture, options = self._request(image, prompt, *settings, new_seed=new_seed)
            yield gr.skip(), [], status("Starting", 0.0), options.seed
            with closing(self._steps(picture, options)) as steps, uploads.workplace() as folder:
                yield from self._watched(steps, options, Path(folder))
        except Exception as error:  # the page must never be left waiting
            gr.Warning(html.escape(explained(error)), title="That did not work")
            yield [], [], problem(explained(error)), gr.skip()

    def _watched(
        self, steps: Iterator[Progress], options: Options, folder: Path
    ) -> Iterator[tuple[Any, ...]]:
        """What to show at every step; finished pictures stay when ZeroGPU's time ends before the others."""
        results: list[generate.Result] = []
        try:
            for progress in steps:
                results = progress.results
                yield self._shown(progress, options, folder)
        except Exception as error:
            if not results:
                raise
            pictures, redrawn = self._saved(results, folder)
            line = f"{len(results)} of {options.count} pictures are done. {explained(error)}"
            yield _gallery(pictures), _gallery(redrawn), problem(line), gr.skip()

    def _shown(self, progress: Progress, options: Options, folder: Path) -> tuple[Any, ...]:
        if len(progress.results) == options.count:
            pictures, redrawn = self._saved(progress.results, folder)
            cut = intake.prompt_notice(self.loaded.pipe, options.prompt)
            return _gallery(pictures), _gallery(redrawn), finished(options, cut), gr.skip()
        share = progress.step / progress.total
        line = f"Step {progress.step} of {progress.total} · {time_left(progress.seconds_left)}"
        if progress.previews is None:
            return gr.skip(), gr.skip(), status(line, share), gr.skip()
        ready, _ = self._saved(progress.results, folder)
        growing = [(preview, "preview") for preview in progress.previews]
        return _gallery(ready + growing, buttons=["fullscreen"]), gr.skip(), status(line, share), gr.skip()

    @staticmethod
    def _saved(results: list[generate.Result], folder: Path) -> tuple[list, list]:
        """Files, not pictures: gradio would encode pictures anew and lose the settings they carry."""
        pictures = [generate.save(result, folder / f"dsd-{result.seed}.png") for result in results]
        named = [(str(path), f"seed {result.seed}") for path, result in zip(pictures, results, strict=True)]
        return named, [(result.reference, f"seed {result.seed}") for result in results]

    def endpoint(
        self,
        image: str,
        prompt: str,
        count: int = 1,
        steps: int | None = None,  # gradio takes a missing value as allowed only where the default is None
        image_guidance: float | None = None,
        text_guidance: float | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        fit: str | None = None,
        quality: str = "best",  # the last: it came later, and programs may pass values without names
    ) -> Iterator[tuple[list[str], list[int]]]:
        """For programs: PNG files that carry their settings, and their seeds.

        Without a seed a new one is taken, without steps the quality's.
        """
        settings = (count, steps, image_guidance, text_guidance, guidance, seed, width, height, fit, quality)
        try:
            picture, options = self._request(image, prompt, *settings, new_seed=seed is None)
            with closing(self._steps(picture, options)) as all_steps, uploads.workplace() as folder:
                for progress in all_steps:
                    files = [
                        str(generate.save(r, Path(folder) / f"dsd-{r.seed}.png")) for r in progress.results
                    ]
                    yield files, [result.seed for result in progress.results]
        except Exception as error:  # gradio would answer without a word, or with too many
            raise gr.Error(html.escape(explained(error)), print_exception=False) from error

    def _request(
        self,
        image: str | None,
        prompt: str,
        count: int,
        steps: int | None,
        image_guidance: float,
        text_guidance: float,
        guidance: float | None,
        seed: int | None,
        width: int,
        height: int,
        fit: str,
        quality: str = "best",
        *,
        new_seed: bool,
    ) -> tuple[Image.Image, Options]:
        if not image:
            raise ValueError("there is no picture yet: upload one, paste one or pick an example")
        self._check_size(width, height)
        if new_seed or seed is None:
            seed = random.randrange(generate.NEW_SEEDS)
        options = Options(
            prompt=intake.check_prompt(prompt),
            count=whole(count),
            steps=whole(steps),
            seed=whole(seed),
            image_guidance=image_guidance,
            text_guidance=text_guidance,
            guidance=guidance,
            width=whole(width),
            height=whole(height),
            fit=fit,
            quality=quality,
        )
        return uploads.open_upload(image), options

    def _check_size(self, width: int, height: int) -> None:
        low, high = self.loaded.side_range
        for name, side in (("width", width), ("height", height)):
            if not isinstance(side, int | float) or not low <= side <= high:
                raise ValueError(f"{name} must be from {low} to {high} with this model, got {side}")

    def see(self, image: str | None, width: int, height: int, fit: str) -> tuple[Image.Image | None, gr.HTML]:
        """What the model will see of an upload, and what there is to say about it."""
        if not image:
            return None, gr.HTML("", visible=False)
        try:
            picture = uploads.open_upload(image)
            self._check_size(width, height)
            frame = diptych.fit(picture, whole(width), whole(height), fit)
            warning = self.loaded.warn(picture) if self.loaded.warn else None
        except Exception as error:  # the page must never be left waiting
            return None, gr.HTML(problem(explained(error)), visible=True)
        remarks = [notice(text) for text in (intake.image_notice(picture), warning) if text]
        return frame, gr.HTML("".join(remarks), visible=bool(remarks))

    def restore(self, image: str | None) -> tuple[Any, ...]:
        """Settings from a picture that was made here, and the reference it was made from.

        Returns (image, prompt, count, steps, image, text and embedded guidance, seed, width, height, fit,
        quality, new seed, box, note, own path).
        """
        # The picture itself, not gr.skip(): an update would rebuild the component and lose its `preprocess`.
        keep = (image, *[gr.skip()] * 12, gr.Group(visible=False), "", None)
        if not image or not provenance.carries_settings(image):
            return keep
        try:
            settings = provenance.read_settings(image)
            options, frame = generate.options_from(settings), provenance.read_reference(image)
            self._check_offered(options)
            quality = offered_quality(options)
        except Exception as error:  # a stranger's file: anything may be wrong with it
            gr.Warning(html.escape(explained(error)), title="Its settings were not taken over")
            return keep
        guidance = gr.skip() if options.guidance is None or not self.has_guidance else options.guidance
        return (
            frame,
            options.prompt,
            1,
            options.steps,
            options.image_guidance,
            options.text_guidance,
            guidance,
            options.seed,
            options.width,
            options.height,
            options.fit,
            quality,
            False,
            gr.Group(visible=True),
            notice(self._restored(settings)),
            image,
        )

    def _check_offered(self, options: Options) -> None:
        self._check_size(options.width, options.height)
        for name, (low, high) in OFFERED.items():
            value = getattr(options, name)
            if value is not None and not low <= value <= high:
                raise ValueError(
                    f"it was made with {name.replace('_', ' ')} {value}; the page offers {low} to {high}"
                )

    def _restored(self, settings: dict[str, Any]) -> str:
        text = "This picture was made here: its settings and the picture it was made from are back."
        if settings.get("model_hash") != self.model_hash:
            text += " It was made by another model, so this one will draw it differently."
        return text


def _gallery(items: list, buttons: Sequence[str] = ("download", "fullscreen")) -> gr.Gallery:
    """One picture is shown large, with its buttons; of several, the one that is clicked."""
    return gr.Gallery(value=items, selected_index=0 if len(items) == 1 else None, buttons=list(buttons))


def offered_quality(options: Options) -> str:
    """The quality on the page that draws as these options did, whatever it was called then."""
    plan = options.plan
    for name, quality in QUALITIES.items():
        if replace(quality, name=plan.name, steps=plan.steps) == plan:
            return name
    raise ValueError(
        f"it was drawn in a way of its own ({plan.solver}, shift {plan.shift}, guidance from step "
        f"{plan.guidance_start} to {plan.guidance_stop:.0%}); the page offers {', '.join(QUALITIES)}"
    )


def whole(value: float | None) -> int | None:
    """Sliders and programs may send 2.0 for 2; anything else is left for `Options` to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finished(options: Options, cut: str | None) -> str:
    """The line above finished pictures."""
    seeds = (
        f"seed {options.seed}"
        if options.count == 1
        else f"seeds {options.seed} to {options.seed + options.count - 1}"
    )
    return done(f"Done, {seeds}.") + (notice(cut) if cut else "")
