"""The settings that each model draws grids with: its size, steps, guidance, and the text that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from diffusers import DiffusionPipeline
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dsd.files import hub
from dsd.model import checkpoint
from dsd.model.canvas import MULTIPLE
from dsd.model.presets import TEACHERS

LONGEST = 512  # tokens, the limit of FluxPipeline


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for drawing with a teacher; pixels are those of one panel."""

    panel: int = 512  # `load_teacher` replaces it with the model's own, if its VAE names one
    margin: int = 8  # cropped from every side of a panel, as Subjects200K does
    steps: int = 28
    guidance: float = 3.5  # embedded; otherwise true CFG against the empty prompt, off at 1 or less
    guidance_name: str = "true_cfg_scale"  # the pipeline's argument for it, unless it is embedded
    shared_noise: float = 0.0  # correlation of two panels' noise; FLUX.1's pipeline only
    refine: float = 0.0  # strength, 0 to 1, of drawing each panel again from its own words; 0 leaves it out
    stochastic: bool = False  # whether panels are drawn again with new noise in every step
    batch: int = 4  # grids at a time
    tokens: int = LONGEST  # of a prompt; longer prompts are rejected
    tokens_of: Mapping[tuple[int, int], int] = field(default_factory=dict)  # for layouts learned with fewer
    template: int = 0  # tokens that the pipeline puts around a prompt
    # Whether the panels are always equal parts without gutters, because the weights learned such grids alone.
    # Then a boundary need not be visible: two panels of one scene often have none.
    equal_parts: bool = False

    def __post_init__(self) -> None:
        if self.panel < MULTIPLE or self.panel % MULTIPLE:
            raise ValueError(f"a panel's side must be a multiple of {MULTIPLE} pixels, got {self.panel}")
        if not 0 <= 2 * self.margin < self.panel:
            raise ValueError(f"margin must be from 0 to {(self.panel - 1) // 2} pixels, got {self.margin}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not (isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance must be 0 or more, got {self.guidance}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not 0 <= self.shared_noise <= 1:
            raise ValueError(f"shared noise must be from 0 to 1, got {self.shared_noise}")
        if not 0 <= self.refine <= 1:
            raise ValueError(f"refine must be from 0 to 1, got {self.refine}")


SETTINGS = {name: Settings(**preset.drawing_grids) for name, preset in TEACHERS.items()}


def text_tokenizer(pipe: DiffusionPipeline) -> Any:
    """Return the tokenizer that limits a prompt's length: the second of two."""
    return getattr(pipe, "tokenizer_2", None) or pipe.tokenizer


def guidance_settings(
    pipe: DiffusionPipeline, guidance: float, count: int, name: str = Settings.guidance_name
) -> dict[str, Any]:
    """Return the pipeline arguments that apply `guidance` to `count` prompts.

    It is embedded in a distilled model, or the argument `name` does all. A true CFG scale needs the empty
    prompt too, at twice the work, and is off at 1 or less.
    """
    if name != "true_cfg_scale" or checkpoint.has_embedded_guidance(pipe):
        return {"guidance_scale": guidance}
    return {name: guidance, "negative_prompt": [""] * count} if guidance > 1 else {name: 1.0}


def taught_lengths(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Return the text lengths that the weights learned grids with, if the tokenizer's config lists them."""
    return _layout_lengths(text_tokenizer(pipe))


def drawn_tokens(name: str, layout: tuple[int, int]) -> int:
    """Return the text length, in tokens, with which a FLUX.1 teacher draws grids of (rows, columns)."""
    preset = checkpoint.resolve(name, TEACHERS)
    base = preset.teacher or preset.base
    hub.check_source(base)
    with hub.explain_errors(preset.name, [base], preset.license_page):
        tokenizer = AutoTokenizer.from_pretrained(base, subfolder="tokenizer_2", trust_remote_code=False)
    settings = SETTINGS.get(preset.like or preset.name, Settings())
    settings = replace(settings, **_layout_lengths(tokenizer))
    return settings.tokens_of.get(layout, settings.tokens)


def _layout_lengths(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    known = tokenizer.init_kwargs.get("layout_tokens")
    if not known:
        return {}
    lengths = {tuple(int(n) for n in layout.split("x")): tokens for layout, tokens in known.items()}
    return {"tokens": max(lengths.values()), "tokens_of": lengths}


def panel_side(pipe: DiffusionPipeline, default: int = 512) -> int:
    """Return the side of a panel in pixels: half of the VAE's image size, `default` if it has none."""
    side = pipe.vae.config.get("sample_size") or 2 * default
    return min(side if isinstance(side, int) else min(side), 2 * max(default, 512)) // 2
