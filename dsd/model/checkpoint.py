"""Load presets and other models, place them on a device and save them; errors say what to do."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate.utils import align_module_device
from diffusers import ConfigMixin, DiffusionPipeline, FluxTransformer2DModel
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dsd.files import hub, missing
from dsd.files.hub import LoadError
from dsd.model import lora as loras
from dsd.model import origin, sampling
from dsd.model import quantize as quantized
from dsd.model.memory import OFFLOADS, Way, report_shortage
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import FLUX_DEV, LORA, PRESETS, Preset, family_of, family_of_pipeline
from dsd.model.speed import Speed, attend
from dsd.model.transformer import is_widened, load_transformer, widen

WHOLE_HASH = 50_000_000  # parameters; larger models are hashed from samples, to avoid reading 24 GB


def load_pipeline(
    name_or_path: str | Path = "pocket",
    *,
    weights: str | Path | None = None,
    lora: str | Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: str = "none",
    quantize: str | None = None,
    cache: str | None = None,
    attention: str | None = None,
) -> DSDPipeline:
    """Open a preset, or a folder or hub id of a complete pipeline that this project saved.

    `weights` replaces the transformer: a folder or hub id of a widened one, or of a trained LoRA, or a LoRA
    file (.safetensors). A LoRA is loaded on the model's own weights, or on the widened base if it has its own
    input columns. `lora` adds style LoRAs, each as FILE_OR_ID or FILE_OR_ID:SCALE; `pipe.styles` says how
    many of their layers act.
    `dtype` None means the preset's dtype, or as saved. `device` None means CUDA, else MPS, else the CPU.
    `offload` trades speed for GPU memory; `quantize` (one of `memory.QUANTIZED`) trades accuracy for it.
    `cache` (NAME or NAME:STRENGTH) and `attention` are as in `dsd.model.speed.Speed`.
    The weights are in memory once. Raise LoadError (a ValueError) that names the license to accept, the
    variable to set, what was not found, or the lack of memory.
    """
    preset = resolve(name_or_path)
    source = weights or preset.weights
    if source is None:
        remedy = "pass weights=... (folder, hub id or LoRA)"
        raise LoadError(f"{preset.name} is a base without a reference input: {remedy}")
    speed = Speed(cache=cache, attention=attention, quantize=quantize)
    styles = [loras.parse(text) for text in ([lora] if isinstance(lora, str) else lora)]
    sources = [preset.base, str(source)]
    for name in sources:
        hub.check_source(name)
    device = open_device(device)
    check_offload(offload, device)
    if quantize:
        quantized.check(quantize, offload, device)
    with (
        hub.explain_errors(preset.name, sources, preset.license_page),
        hub.offline_if_unreachable(preset.base),
        report_shortage(preset.name, device, Way(offload, quantize)),
    ):
        # Access the possibly gated base first, to fail before gigabytes of other weights are downloaded.
        DSDPipeline.load_config(preset.base)
        style_files = [loras.find(style.source) for style in styles]
        expected_lora = None if weights else preset.lora
        dtype = dtype or torch_dtype(preset)
        transformer, student = _open_transformer(preset, str(source), expected_lora, dtype)
        parts = quantized.parts(transformer, quantize, device)
        pipe = DSDPipeline.from_pretrained(preset.base, dtype=transformer.dtype, **parts, **hub.SAFE)
        missing.check_parts(pipe, preset.base)
        if student is not None:
            names = {"weight_name": student.name, "adapter_name": "dsd", "use_safetensors": True}
            pipe.load_lora_weights(str(student.parent), **names)
        loras.add_styles(pipe, styles, style_files)
        if quantize:
            quantized.shrink(pipe, quantize, device)
        pipe.speed, pipe.scales = speed, dict(preset.scales)
        origin.follow_student(pipe, preset.base, weights and str(weights), student)
        pipe.license = origin.license_of(pipe, preset, weights and str(weights), student)
        if attention:
            attend(pipe.transformer, attention, device)
        return place(pipe, device, offload)


def load_student(name: str, student: str, dtype: torch.dtype | None = None) -> FluxTransformer2DModel:
    """Return the transformer of a student with its LoRA, if any, added to the weights.

    `name` is the model that `student` was trained from; `student` is as `weights` of `load_pipeline`.
    """
    preset = resolve(name)
    hub.check_source(student)
    with hub.explain_errors(name, [preset.base, student], preset.license_page):
        transformer, lora = _open_transformer(preset, student, None, dtype)
        if lora is not None:
            loras.fuse(*loras.read(lora), transformer)
        return transformer


def student_license(student: str) -> str:
    """Return the license that a student's LoRA file or local card names, or else that it is unknown."""
    lora = find_lora(student)
    noted = origin.lora_facts(lora).get("license") if lora else origin.card_license(student)
    return noted or Preset.license


def resolve(name_or_path: str | Path, presets: Mapping[str, Preset] = PRESETS) -> Preset:
    """Return the named preset, or one with the settings of its family for a folder or hub id.

    Raise LoadError with the known names otherwise.
    """
    name = str(name_or_path)
    if name in presets:
        return presets[name]
    for preset in presets.values():
        if name == preset.weights and preset.weights != preset.base:
            remedy = f"pass the model {preset.name}, which draws with it"
            raise LoadError(f"{name} is a transformer alone: {remedy}")
    if Path(name).is_dir() or hub.ID.fullmatch(name):
        return _describe(name)
    choice = f"one of {', '.join(presets)}, a folder, or a hub id (owner/name)"
    raise LoadError(f"unknown model {name!r}: pass {choice}")


def _describe(name: str) -> Preset:
    """Return a preset for a folder or hub id, from the files that it has."""
    family = family_of(origin.transformer_config(name))
    family = family or family_of_pipeline(name, origin.pipeline_class(name))
    settings = {"license": origin.card_license(name) or Preset.license}
    if family is not None:
        settings |= {"like": family.name, "training": family.training, "drawing_grids": family.drawing_grids}
    if family is not None and (family is FLUX_DEV or name == family.base):
        settings |= {"license": family.license, "license_page": family.license_page}
    description = "A pipeline saved by this project."
    return Preset(name=name, base=name, weights=name, description=description, **settings)


def torch_dtype(preset: Preset) -> torch.dtype | None:
    """Return the dtype that a preset is opened in, or None where it is opened as saved."""
    return None if preset.dtype is None else getattr(torch, preset.dtype)


def best_device() -> str:
    """Return "cuda" if available, else "mps" (Apple), else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def open_device(device: str | torch.device | None) -> torch.device:
    """Return the device, or the best one if it is None; raise LoadError if it cannot be used."""
    if device is None:
        return torch.device(best_device())
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either for a missing device
        raise LoadError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return torch.device(device)


def save_pipeline(pipe: DSDPipeline, folder: str | Path) -> None:
    """Save for `load_pipeline`; plain diffusers opens the folder too, as a `FluxControlPipeline`."""
    if getattr(pipe.transformer, "peft_config", None):
        remedy = "call pipe.fuse_lora() and pipe.unload_lora_weights() first"
        raise ValueError(f"LoRA adapters are loaded; {remedy}")
    for part in pipe.components.values():  # diffusers writes where a part was loaded from, a home folder
        if isinstance(part, ConfigMixin) and Path(part.config.get("_name_or_path") or "").is_absolute():
            part.register_to_config(_name_or_path="")
    pipe.save_pretrained(folder)


def has_embedded_guidance(pipe: DiffusionPipeline) -> bool:
    """Return whether the model takes `guidance_scale`; other models reject the option."""
    return bool(pipe.transformer.config.get("guidance_embeds"))


def model_hash(pipe: DiffusionPipeline) -> str:
    """Return the `weights_hash` of the transformer; another one if the scheduler is stochastic."""
    return weights_hash(pipe.transformer, "stochastic" * sampling.is_stochastic(pipe.scheduler))


def weights_hash(model: nn.Module, note: str = "") -> str:
    """Return twelve hex digits that identify a note and a model's weights, LoRAs and their scales included.

    Up to 50 million parameters, all values are hashed; above that, names, shapes and 64 or more values
    spread over each tensor.
    """
    state = model.state_dict()
    is_small = sum(tensor.numel() for tensor in state.values()) <= WHOLE_HASH
    digest = hashlib.sha256(note.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        if tensor.is_meta:  # sequential offload keeps it elsewhere
            path, _, leaf = name.rpartition(".")
            with align_module_device(module := model.get_submodule(path)):
                tensor = getattr(module, leaf).cpu()
        if is_traceable_wrapper_subclass(tensor):  # quantized by torchao
            tensor = tensor.dequantize()
        values = tensor.detach().flatten()
        values = values if is_small else values[:: max(1, values.numel() // 64)]
        digest.update(values.float().cpu().numpy().tobytes())  # numpy has no bfloat16
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):  # the scale of a LoRA changes the image
            active = [(a, module.scaling[a]) for a in module.active_adapters if a in module.scaling]
            digest.update(f"{name} {active}".encode())
    return digest.hexdigest()[:12]


def _open_transformer(
    preset: Preset, source: str, expected_lora: str | None, dtype: torch.dtype | None
) -> tuple[FluxTransformer2DModel, Path | None]:
    """Return the widened transformer and the LoRA file to load on it, if any."""
    lora = (alone := find_lora(source)) or _find_lora_beside(source, expected_lora)
    layers = loras.read(lora)[0] if lora else {}  # file first: a damaged one fails at once
    if alone:
        transformer = _open_below(preset, layers, alone.name, dtype)
    else:
        transformer = load_transformer(source, dtype=dtype)
    if lora:
        loras.check_fit(layers, transformer, lora.name)
    if not is_widened(transformer):
        inputs = f"{transformer.config.in_channels} input channels"
        raise LoadError(f"{source} is a FLUX that cannot see a reference ({inputs}): pass weights=...")
    return transformer, lora


def _open_below(
    preset: Preset, layers: loras.Layers, name: str, dtype: torch.dtype | None
) -> FluxTransformer2DModel:
    """Return the transformer that a student's LoRA goes on; raise LoadError if the LoRA is a style."""
    if loras.INPUT in layers:
        transformer = load_transformer(preset.base, subfolder="transformer", dtype=dtype)
        return transformer if is_widened(transformer) else widen(transformer)
    if preset.lora or preset.weights is None:
        loras.check_student(layers, name)
    if preset.weights is None:
        problem = f"so {preset.name} would ignore the reference: pass a whole student"
        raise LoadError(f"{name} has no input columns, {problem}")
    return load_transformer(preset.weights, dtype=dtype)


def find_lora(source: str) -> Path | None:
    """Return the LoRA file if `source` is one, or is a folder or hub id with a LoRA and no transformer."""
    path = Path(source)
    if path.is_file():
        return path
    if any(origin.find_file(source, file) for file in ("transformer/config.json", "config.json")):
        return None
    return origin.find_file(source, LORA) if path.is_dir() else loras.find(source)


def _find_lora_beside(source: str, expected: str | None) -> Path | None:
    """Return the LoRA file next to a transformer, or None; the published release needs both."""
    name = expected or LORA
    if Path(source).is_dir():
        return Path(source, name) if Path(source, name).is_file() else None
    try:
        return Path(hf_hub_download(source, name))
    except EntryNotFoundError as error:
        # Offline, a file that is not cached may exist on the hub, unless the hub denied it before.
        is_offline = isinstance(error, LocalEntryNotFoundError)
        is_known_absent = try_to_load_from_cache(source, name) is _CACHED_NO_EXIST
        if expected or (is_offline and not is_known_absent):
            raise
        return None


def check_offload(offload: str, device: torch.device) -> None:
    """Raise LoadError unless `place` supports this offload on this device."""
    if offload not in OFFLOADS:
        raise LoadError(f"offload must be one of {', '.join(OFFLOADS)}, got {offload!r}")
    if offload != "none" and device.type == "cpu":
        raise LoadError(f'offload={offload!r} keeps weights off a GPU, and this is a CPU: use "none"')


def place(pipe: DiffusionPipeline, device: torch.device, offload: str) -> DiffusionPipeline:
    """Move the pipeline to the device, or set up one of the `OFFLOADS` for its weights."""
    if offload == "none":
        return pipe.to(device)
    if offload == "model":
        # The VAE is small and stays on the GPU: as the last model of the chain it would move the transformer
        # off the GPU at every preview between two steps, and the next step would move it back.
        pipe.model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer"
        pipe._exclude_from_cpu_offload = ["vae"]
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    return pipe
