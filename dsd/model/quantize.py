"""Quantize a model to 8 or 4 bits for drawing, with bitsandbytes or torchao.

The transformer and the large text encoder are quantized. The transformer's first and last layers, CLIP and
the VAE are small and are not. bitsandbytes quantizes weights as they are loaded, torchao those of a loaded
pipeline. Training quantizes its frozen weights itself (`dsd.training.student`), because sharding has
additional requirements.
"""

from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import (
    BitsAndBytesConfig,
    DiffusionPipeline,
    FluxTransformer2DModel,
    PipelineQuantizationConfig,
)
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.quantizers import DiffusersAutoQuantizer
from packaging.version import Version

from dsd.files.hub import LoadError
from dsd.model.memory import INSTALL, PACKAGE, QUANTIZED, installed_version

END_LAYERS = ("x_embedder", "proj_out")  # the first and last: small, and every error in them shows
END_LAYERS_OF_OTHERS = ("img_in", "all_x_embedder", "all_final_layer")  # Qwen-Image, Z-Image
OFFLOADS = ("none", "model")
OLDEST = "0.48"
OLDEST_TORCHAO = "0.15"  # the oldest that diffusers takes
TORCHAO = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
COMPUTE = "fp8-compute"  # weights as with fp8; the transformer multiplies in fp8, too
COMPUTE_CONFIG = "Float8DynamicActivationFloat8WeightConfig"
OLDEST_FP8_GPU = (8, 9)  # compute capability of Ada; Hopper has 9.0


def check(bits: str, offload: str, device: torch.device) -> None:
    """Raise LoadError unless weights can be quantized to `bits` on this device with this offload."""
    package, oldest, install = PACKAGE, OLDEST, INSTALL
    if bits in (*TORCHAO, COMPUTE):
        package, oldest = "torchao", OLDEST_TORCHAO
        install = f'pip install "{package}>={oldest}"'
    if bits not in QUANTIZED:
        raise LoadError(f"quantize must be one of {', '.join(QUANTIZED)}, got {bits!r}")
    needs_cuda = bits not in TORCHAO
    if needs_cuda and device.type != "cuda":
        raise LoadError(
            f"quantize={bits!r} needs an NVIDIA GPU (CUDA) and the package {package} ({install}), and this "
            f"is {device.type}: leave it out; python -m dsd.doctor says what runs here"
        )
    if offload not in OFFLOADS:
        raise LoadError(
            f"quantize={bits!r} works with offload {' or '.join(OFFLOADS)}, not {offload!r}: drop one of them"
        )
    version = installed_version(package)
    if version is None or Version(version) < Version(oldest):
        need, got = f"the package {package} {oldest} or newer", version or "none"
        raise LoadError(f"quantize={bits!r} needs {need}, got {got}: {install}")
    if bits == COMPUTE and torch.cuda.get_device_capability(device) < OLDEST_FP8_GPU:
        name = torch.cuda.get_device_name(device)
        raise LoadError(f"quantize={bits!r} needs a GPU that multiplies in fp8, and this is {name}: use fp8")


def quantize(
    transformer: FluxTransformer2DModel, bits: str, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """Return a copy on `device` with linear layers in 8 or 4 `bits`, which computes in `dtype`.

    Weights are copied one by one, so that a memory-mapped file is never in memory as a whole.
    """
    config = BitsAndBytesConfig(**_settings(bits, dtype), llm_int8_skip_modules=list(END_LAYERS))
    quantizer = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
    with init_empty_weights():
        small = FluxTransformer2DModel.from_config(transformer.config)
    quantizer.preprocess_model(small, device_map={"": device}, keep_in_fp32_modules=[])
    load_model_dict_into_meta(
        small, transformer.state_dict(), dtype=dtype, hf_quantizer=quantizer, device_map={"": device}
    )
    quantizer.postprocess_model(small)
    small.hf_quantizer = quantizer
    return small.requires_grad_(False).eval()


def shrink(pipe: DiffusionPipeline, bits: str, device: torch.device) -> None:
    """Quantize a loaded pipeline with torchao, layer by layer on `device`; bitsandbytes already has."""
    if bits not in (*TORCHAO, COMPUTE):
        return
    shrink_part(pipe.transformer, bits, device)
    encoder = getattr(pipe, "text_encoder_2", None) or pipe.text_encoder
    shrink_part(encoder, "fp8" if bits == COMPUTE else bits, device)


def shrink_part(model: torch.nn.Module, bits: str, device: torch.device) -> None:
    """Quantize a model's linear layers with torchao, except for its first and last and for LoRAs."""
    from torchao import quantization

    config = getattr(quantization, COMPUTE_CONFIG if bits == COMPUTE else TORCHAO[bits])()
    quantization.quantize_(model, config, filter_fn=_is_quantized, device=device)


def _is_quantized(module: torch.nn.Module, name: str) -> bool:
    is_end = name.split(".")[0] in (*END_LAYERS, *END_LAYERS_OF_OTHERS, "lm_head")
    return isinstance(module, torch.nn.Linear) and not is_end and "lora_" not in name


def pipeline_parts(base: str, bits: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return `from_pretrained` arguments that quantize any pipeline with bitsandbytes; torchao needs none."""
    if bits in (*TORCHAO, COMPUTE):
        return {}
    has_two = "text_encoder_2" in DiffusionPipeline.load_config(base)
    skipped = [*END_LAYERS, *END_LAYERS_OF_OTHERS]
    mapping = {
        "transformer": BitsAndBytesConfig(**_settings(bits, dtype), llm_int8_skip_modules=skipped),
        f"text_encoder{'_2' * has_two}": transformers.BitsAndBytesConfig(**_settings(bits, dtype)),
    }
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def parts(transformer: FluxTransformer2DModel, bits: str | None, device: torch.device) -> dict[str, Any]:
    """Return `from_pretrained` arguments of a student: the transformer, and the text encoder's config."""
    if bits not in ("8bit", "4bit"):
        return {"transformer": transformer}
    encoder = transformers.BitsAndBytesConfig(**_settings(bits, transformer.dtype))
    return {
        "transformer": quantize(transformer, bits, transformer.dtype, device),
        "quantization_config": PipelineQuantizationConfig(quant_mapping={"text_encoder_2": encoder}),
    }


def _settings(bits: str, dtype: torch.dtype) -> dict[str, Any]:
    if bits == "8bit":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
