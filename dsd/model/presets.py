"""One record of plain facts for each family of weights: the only place where families differ.

A folder or hub id that is none of these gets a record with the settings that suit its transformer's config.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[2] / "assets" / "pocket"
LORA = "pytorch_lora_weights.safetensors"
ATTENTION = (  # all projections of FLUX's attention: for image tokens, then for text tokens
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
DEFAULT_GUIDANCE = 3.5  # embedded, for models that were distilled with it
SCALES = {"image_guidance": 1.5, "text_guidance": 1.0}  # the release's demo draws with these


def choose(chosen: Mapping[str, float | None], own: Mapping[str, float]) -> dict[str, float]:
    """Return a model's own guidance scales, each replaced by the chosen one that is not None."""
    return {name: scale if chosen[name] is None else chosen[name] for name, scale in own.items()}


@dataclass(frozen=True, kw_only=True)
class Task:
    """The words of one task for visitors. The model sees none of them, only the prompt that they lead to."""

    name: str  # of the task of a recipe
    title: str
    question: str = "What should it draw?"  # label of the prompt
    placeholder: str = ""  # of the prompt
    # Groups of phrases that the page inserts into the prompt; one of each group makes sense at a time.
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    examples: tuple[str, ...] = ()  # prompts for the family's example images, until it has examples drawn


IDENTITY = "identity"  # the task of weights and datasets that name none
SOMEWHERE = Task(
    name=IDENTITY, title="Somewhere new", question="Where should it be?",
    placeholder="wearing a red hat on the beach",
)  # fmt: skip
LIGHT = Task(name="relight", title="Another light", question="In which light?", placeholder="at night")
CHANGE = Task(
    name="edit", title="Change something", question="What should change?", placeholder="wearing a red hat"
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named family: its parts, its license, and the settings that suit it."""

    name: str
    base: str  # folder or hub id of a complete pipeline: text encoders, VAE, scheduler
    weights: str | None  # folder or hub id of the widened transformer; None: the user must pass one
    lora: str | None = None  # file name of a LoRA beside the weights
    teacher: str | None = None  # folder of the text-to-image model; None: it is the base
    judge: str | None = None  # folder of a judge that comes with it
    judge_batch: int | None = None  # questions at a time; None: as any local model
    ranker: str | None = None  # folder of the network that ranks its images, if it draws the drawn world
    embedder: str | None = None  # hub id of the image encoder that ranks its images, if no network does
    run: str | None = None  # folder of a sample run for the Curate tab
    dtype: str | None = None  # name of a torch dtype; None: as saved
    license: str = "unknown: see the model's card"
    license_page: str | None = None
    like: str | None = None  # name of the preset whose settings a folder or hub id has
    pipeline: str = "FluxPipeline"  # diffusers' class of its text-to-image pipeline
    description: str = ""  # tells visitors of the page what it draws
    more: str | None = None  # address of a page that says more
    examples: str | None = None  # folder with `examples.json`: reference, prompt, seed, finished image
    tasks: tuple[Task, ...] = (SOMEWHERE, LIGHT, CHANGE)  # that its students can be trained for
    story: tuple[str, ...] = ()  # example lines of the Story tab, a panel each
    aspects: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # name -> sides, in frame sizes
    about_grids: str = ""  # tells visitors of the Grids tab who draws there
    recipe: str = "identity"  # name of the recipe that its grids are worded by
    knows_world: bool = False  # it draws the drawn world alone, and can tell when an image is not from there
    scales: Mapping[str, float] = field(default_factory=SCALES.copy)  # of guidance, unless others are chosen
    stochastic: bool = False  # whether students trained from it by its name draw with new noise in each step
    drawing_grids: Mapping[str, Any] = field(default_factory=dict)  # fields of `dsd.grids.teacher.Settings`
    training: Mapping[str, Any] = field(default_factory=dict)  # fields of `dsd.training.options.TrainOptions`

    def tasks_of(self, trained: Collection[str]) -> tuple[Task, ...]:
        """Return the tasks that weights were trained for; one that this family has no words for is bare."""
        named = {task.name for task in self.tasks}
        bare = [Task(name=name, title=name.capitalize()) for name in trained if name not in named]
        return (*(task for task in self.tasks if task.name in trained), *bare)

    @property
    def embedded(self) -> bool:
        """Return whether the weights ship with the code."""
        return Path(self.base).is_relative_to(ASSETS)


PAPER = "https://arxiv.org/abs/2411.18616"
EXAMPLES = str(ASSETS.parent / "examples")
WORN = ("wearing a red hat", "wearing a blue scarf", "holding a yellow balloon", "holding a white flag")
# In the words that pocket is taught; "take off" and "move" are not among them.
POCKET_TASKS = (
    replace(
        SOMEWHERE,
        phrases={
            "Places": ("on the beach", "in the forest", "in the snow", "in the desert", "in the city",
                       "under the sea", "in space", "in a room"),
            "To wear or hold": WORN,
            "Light": ("at sunset", "at night", "under clouds"),
        },
    ),
    replace(
        LIGHT,
        phrases={
            "Light": ("at sunset", "at night", "under clouds", "in daylight"),
            "From where": ("lit from the left", "lit from the right"),
        },
        examples=("at sunset", "at night", "at sunset lit from the left", "at night lit from the right"),
    ),
    replace(
        CHANGE,
        phrases={
            "To wear or hold": WORN,
            "Take off": ("without the hat", "without the scarf", "without the balloon", "without the flag"),
            "Put it": ("on the left", "in the centre", "on the right"),
        },
        examples=("wearing a red hat", "on the left", "holding a yellow balloon", "on the right"),
    ),
)  # fmt: skip
# Pocket has nine million weights and needs no LoRA. Its new columns should not start at zero: for a family of
# half the size, identity after 300 steps was 0.70 with a start at 3 times the old columns, 0.64 at 1 times,
# and at most 0.60 at zero.
# Captions have at most 77 CLIP tokens; most of FLUX.1-dev's 512 T5 tokens would be padding kept on disk.
POCKET = Preset(
    name="pocket", dtype="float32", license="Apache-2.0", recipe="critters", knows_world=True,
    base=str(ASSETS / "student"),  # a complete pipeline, as training saves it
    weights=str(ASSETS / "student"), teacher=str(ASSETS / "teacher"),
    judge=str(ASSETS / "judge"), judge_batch=32, ranker=str(ASSETS / "ranker"), run=str(ASSETS / "run"),
    description="Here it draws little cartoon critters.",
    more=PAPER, examples=EXAMPLES, tasks=POCKET_TASKS,
    story=("in a room", "in the city wearing a red hat", "on the beach holding a yellow balloon",
           "under the sea", "in space holding a white flag", "in a room at night"),
    about_grids="A small model draws them here; it knows one world of drawn critters.",
    # On 32 held-out critters these keep .830 of an identity and draw 75 % of the accessories asked for;
    # 1.5 and 1 kept .845 and drew 47 %. Equal scales need two evaluations a step, not three.
    scales={"image_guidance": 2.0, "text_guidance": 2.0},
    stochastic=True,
    # The model card is measured at this guidance.
    drawing_grids={
        "panel": 128, "margin": 0, "steps": 12, "guidance": 3.0, "batch": 8, "tokens": 44,
        "tokens_of": {(1, 2): 32}, "equal_parts": True, "shared_noise": 1.0, "refine": 0.5,
        "stochastic": True,
    },
    training={
        "full": True, "condition_init_scale": 3.0, "steps": 2_000, "batch": 24, "accumulate": 1, "lr": 1e-3,
        "optimizer": "muon", "beta2": 0.97, "clip": 1.0, "warmup": 100, "decay": 0.4, "ema": 0.998,
        "shift": 2.0, "reference_weight": 0.1, "instruction_prob": 0.8, "text_tokens": 28,
        "validate_every": 125,
    },
)  # fmt: skip
ENCODER = "facebook/dinov2-base"  # Apache-2.0, 350 MB
EVERYDAY = (
    replace(
        SOMEWHERE,
        phrases={
            "Places": ("on a beach", "in a forest", "in the snow", "in a city street", "on a wooden table"),
            "To wear or hold": ("wearing a red hat", "wearing sunglasses", "holding a yellow balloon"),
            "Light": ("at sunset", "at night", "in soft morning light"),
        },
    ),
    replace(
        LIGHT,
        phrases={
            "Light": ("at sunset", "at night in moonlight", "in soft morning light", "under a cloudy sky",
                      "in candlelight", "in neon light"),
            "From where": ("from the left", "from the right", "from behind"),
        },
    ),
    replace(
        CHANGE,
        placeholder="give it a yellow balloon",
        phrases={
            "Give or take": ("give it a yellow balloon", "give it a red hat", "give it sunglasses",
                             "take off the hat", "take off the glasses"),
            "Color": ("make the hat blue", "make the balloon green"),
            "Put it": ("put it on the left", "put it in the middle", "put it on the right"),
        },
    ),
)  # fmt: skip
EVERYDAY_STORY = (
    "reading a map on a wooden table", "walking through a city street in the rain", "on a train at sunset",
    "climbing a snowy mountain", "looking at the stars from a mountain top", "asleep on a sofa at night",
)  # fmt: skip
# FLUX is trained on many aspect ratios. The published DSD weights were trained on squares alone,
# and we have not measured them on others, so only moderate ones are offered.
ASPECTS = {"Square": (1.0, 1.0), "Portrait": (0.875, 1.125), "Landscape": (1.125, 0.875)}
FLUX_DEV = Preset(
    name="flux-dev", dtype="bfloat16", license="FLUX.1 [dev] Non-Commercial License",
    base="black-forest-labs/FLUX.1-dev", weights="primecai/dsd_model", lora=LORA,
    license_page="https://huggingface.co/black-forest-labs/FLUX.1-dev",
    description="Here it draws photographs and drawings of almost anything.",
    more=PAPER, tasks=EVERYDAY, story=EVERYDAY_STORY, aspects=ASPECTS, embedder=ENCODER,
    training={"gradient_checkpointing": True, "text_tokens": 128},
)  # fmt: skip
FLUX_SCHNELL = Preset(
    name="flux-schnell", dtype="bfloat16", license="Apache-2.0",
    base="black-forest-labs/FLUX.1-schnell", weights=None,
    license_page="https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    description="Here it draws photographs and drawings of almost anything.",
    more=PAPER, tasks=EVERYDAY, story=EVERYDAY_STORY, aspects=ASPECTS, embedder=ENCODER,
    drawing_grids={"steps": 4, "guidance": 0.0, "tokens": 256},
    training={"gradient_checkpointing": True, "text_tokens": 128},
)  # fmt: skip
PRESETS = {preset.name: preset for preset in (POCKET, FLUX_DEV, FLUX_SCHNELL)}

# The presets below draw grids, and cannot be students. `template` counts the tokens that the pipeline's own
# chat template puts around a prompt; `tokens` and `template` together are the length that the model reads.
FLUX2_KLEIN = Preset(
    name="flux2-klein", dtype="bfloat16", license="Apache-2.0", pipeline="Flux2KleinPipeline",
    base="black-forest-labs/FLUX.2-klein-4B", weights=None,
    license_page="https://huggingface.co/black-forest-labs/FLUX.2-klein-4B",
    description="FLUX.2-klein-4B draws grids in four steps: free license, on a GPU.",
    drawing_grids={  # distilled: guidance of 1 is off
        "steps": 4, "guidance": 1.0, "guidance_name": "guidance_scale", "tokens": 500, "template": 12,
    },
)  # fmt: skip
# Its best size, 1328 pixels, does not halve to a multiple of 16.
QWEN_IMAGE = Preset(
    name="qwen-image", dtype="bfloat16", license="Apache-2.0", pipeline="QwenImagePipeline",
    base="Qwen/Qwen-Image", weights=None, license_page="https://huggingface.co/Qwen/Qwen-Image",
    description="Qwen-Image draws grids: free license, 20 billion weights, on a large GPU.",
    drawing_grids={
        "panel": 656, "steps": 50, "guidance": 4.0, "batch": 1, "tokens": 1019, "template": 5,
    },
)  # fmt: skip
Z_IMAGE = Preset(
    name="z-image", dtype="bfloat16", license="Apache-2.0", pipeline="ZImagePipeline",
    base="Tongyi-MAI/Z-Image", weights=None, license_page="https://huggingface.co/Tongyi-MAI/Z-Image",
    description="Z-Image draws grids: free license, 6 billion weights, on a GPU.",
    drawing_grids={
        "steps": 50, "guidance": 4.0, "guidance_name": "guidance_scale", "tokens": 504, "template": 8,
    },
)  # fmt: skip
Z_IMAGE_TURBO = Preset(
    name="z-image-turbo", dtype="bfloat16", license="Apache-2.0", pipeline="ZImagePipeline",
    base="Tongyi-MAI/Z-Image-Turbo", weights=None,
    license_page="https://huggingface.co/Tongyi-MAI/Z-Image-Turbo",
    description="Z-Image-Turbo draws grids in eight steps: free license, on a GPU.",
    drawing_grids={**Z_IMAGE.drawing_grids, "steps": 8, "guidance": 0.0},
)  # fmt: skip
TEACHERS = PRESETS | {preset.name: preset for preset in (FLUX2_KLEIN, QWEN_IMAGE, Z_IMAGE, Z_IMAGE_TURBO)}
DEFAULT = POCKET  # opens without a download, a key or a GPU


def family_with_words(preset: Preset) -> Preset:
    """Return the family in whose words tasks are offered; the embedded one for weights of no known family."""
    return PRESETS.get(preset.like or preset.name, DEFAULT)


def family_of(config: Mapping[str, Any]) -> Preset | None:
    """Return the preset whose settings suit weights with this transformer config; None for other models.

    FLUX.1-dev and models made from it take embedded guidance, and FLUX.1-schnell does not.
    """
    channels = config.get("out_channels") or config.get("in_channels")
    if (config.get("attention_head_dim"), channels) != (128, 64):
        return None
    return FLUX_DEV if config.get("guidance_embeds") else FLUX_SCHNELL


def family_of_pipeline(name: str, pipeline: str | None) -> Preset | None:
    """Return the preset whose settings suit a folder or hub id with this pipeline class, other than FLUX."""
    family = [preset for preset in TEACHERS.values() if preset.pipeline == pipeline != Preset.pipeline]
    return next((preset for preset in family if preset.base == name), family[0] if family else None)
