"""A LoRA of the teacher: put on its pipeline, with what its rows record about it."""

import hashlib

from diffusers import DiffusionPipeline, FluxTransformer2DModel

from dsd.files.errors import LoadError
from dsd.generate.drawing import public_name
from dsd.model import lora as loras
from dsd.model import origin
from dsd.model.origin import Facts
from dsd.model.presets import Preset


def add_lora(pipe: DiffusionPipeline, text: str) -> Facts:
    """Put a LoRA, as FILE_OR_ID or FILE_OR_ID:SCALE, on a FLUX.1 teacher and return the facts about it.

    They are its file, the SHA-256 of that file, its scale and license, and what `train.teacher` noted in it.
    """
    if not isinstance(getattr(pipe, "transformer", None), FluxTransformer2DModel):
        raise LoadError(
            f"a teacher's LoRA is for FLUX.1, and the teacher is a {type(pipe).__name__}: drop it"
        )
    style = loras.parse(text)
    file = loras.find(style.source)
    pipe.styles = ()
    loras.add_styles(pipe, [style], [file])
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    own = {"file": public_name(style.source), "hash": digest, "scale": style.scale}
    facts = {"license": Preset.license} | origin.lora_facts(file) | own  # a file cannot name another hash
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
