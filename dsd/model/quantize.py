"""Quantize FLUX to 8 or 4 bits for drawing, with the bitsandbytes configs of diffusers and transformers.

The transformer and the large text encoder are quantized. The transformer's first and last layers, CLIP and
the VAE are small and are not. Training quantizes its frozen weights itself (`dsd.training.student`), because
sharding has additional requirements.
"""

from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import BitsAndBytesConfig, FluxTransformer2DModel, PipelineQuantizationConfig
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.quantizers import DiffusersAutoQuantizer
from packaging.version import Version

from dsd.files.hub import LoadError
from dsd.model.memory import INSTALL, PACKAGE, QUANTIZED, installed_version

END_LAYERS = ("x_embedder", "proj_out")  # the first and last: small, and every error in them shows
OLDEST = "0.48"  # older versions cannot offload quantized models to main memory
OFFLOADS = ("none", "model")


def check(bits: str, offload: str, device: torch.device) -> None:
    """Raise LoadError unless weights can be quantized to `bits` on this device with this offload."""
    if bits not in QUANTIZED:
        raise LoadError(f"quantize must be one of {', '.join(QUANTIZED)}, got {bits!r}")
    if device.type != "cuda":
        raise LoadError(
            f"quantize={bits!r} needs an NVIDIA GPU (CUDA) and the package {PACKAGE} ({INSTALL}), and this "
            f"is {device.type}: leave it out; python -m dsd.doctor says what runs here"
        )
    if offload not in OFFLOADS:
        raise LoadError(
            f"quantize={bits!r} works with offload {' or '.join(OFFLOADS)}, not {offload!r}: drop one of them"
        )
    version = installed_version(PACKAGE)
    if version is None or Version(version) < Version(OLDEST):
        got = version or "none"
        need = f"the package {PACKAGE} {OLDEST} or newer"
        raise LoadError(f"quantize={bits!r} needs {need}, got {got}: {INSTALL}")


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


def parts(transformer: FluxTransformer2DModel, bits: str, device: torch.device) -> dict[str, Any]:
    """Return `from_pretrained` arguments: the quantized transformer and the text encoder's config."""
    encoder = transformers.BitsAndBytesConfig(**_settings(bits, transformer.dtype))
    return {
        "transformer": quantize(transformer, bits, transformer.dtype, device),
        "quantization_config": PipelineQuantizationConfig(quant_mapping={"text_encoder_2": encoder}),
    }


def _settings(bits: str, dtype: torch.dtype) -> dict[str, Any]:
    if bits == "8bit":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
