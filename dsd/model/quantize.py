"""FLUX with weights in 8 or 4 bits, by diffusers' and transformers' own bitsandbytes configs; for drawing.

The transformer's two ends stay as they are; the large text encoder is quantised too. CLIP and the VAE are
small. Training quantises its frozen weights itself (`dsd.training.student`), because sharding asks more of
them.
"""

from importlib import metadata
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import BitsAndBytesConfig, FluxTransformer2DModel, PipelineQuantizationConfig
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.quantizers import DiffusersAutoQuantizer
from packaging.version import Version

from dsd.files.hub import LoadError
from dsd.model.memory import INSTALL, PACKAGE, QUANTISED

ENDS = ["x_embedder", "proj_out"]  # what comes in and what goes out: small, and every error in them shows
OLDEST = Version("0.48")  # before that such models could not move between a GPU and memory
OFFLOADS = ("none", "model")


def check(bits: str, offload: str, device: torch.device) -> None:
    """LoadError unless weights can be kept in so many `bits` there."""
    if bits not in QUANTISED:
        raise LoadError(f"quantize must be one of {', '.join(QUANTISED)}, got {bits!r}")
    if device.type != "cuda":
        raise LoadError(
            f"quantize={bits!r} needs an NVIDIA GPU (CUDA) and the package {PACKAGE} ({INSTALL}), and this "
            f"is {device.type}: leave it out; python -m dsd.doctor says what runs here"
        )
    if offload not in OFFLOADS:
        raise LoadError(
            f"quantize={bits!r} goes with offload {' or '.join(OFFLOADS)}, not {offload!r}: drop one of them"
        )
    check_package(bits)


def check_package(bits: str) -> None:
    """LoadError that names the package and how to install it, if it is missing or too old."""
    try:
        found = Version(metadata.version(PACKAGE))
    except metadata.PackageNotFoundError as error:
        raise LoadError(f"quantize={bits!r} needs the package {PACKAGE}, not installed: {INSTALL}") from error
    if found < OLDEST:
        raise LoadError(f"quantize={bits!r} needs {PACKAGE} {OLDEST} or newer, this is {found}: {INSTALL}")


def quantise(
    transformer: FluxTransformer2DModel, bits: str, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """A copy on `device` whose linear layers are in 8 or 4 `bits`, and which computes in `dtype`.

    Weights are taken one by one, so that a file which is only mapped into memory is never there as a whole.
    """
    config = BitsAndBytesConfig(**_settings(bits, dtype), llm_int8_skip_modules=list(ENDS))
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
    """For the pipeline's `from_pretrained`: the transformer, and how to read the large text encoder."""
    dtype = transformer.dtype
    encoder = transformers.BitsAndBytesConfig(**_settings(bits, dtype))
    return {
        "transformer": quantise(transformer, bits, dtype, device),
        "quantization_config": PipelineQuantizationConfig(quant_mapping={"text_encoder_2": encoder}),
    }


def _settings(bits: str, dtype: torch.dtype) -> dict[str, Any]:
    if bits == "8bit":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
