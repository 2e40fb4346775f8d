"""The LoRA file for ComfyUI and the workflow in docs/, against what ComfyUI's source reads; it is not run."""

import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dsd.model.checkpoint import load_pipeline
from dsd.model.transformer import load_transformer
from tests import student

WORKFLOW = Path(__file__).parents[2] / "docs" / "comfyui-workflow.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
# Layers of diffusers' FLUX that ComfyUI maps to its own (`flux_to_diffusers` in comfy/utils.py): of a double
# block, of a single block, and the others.
DOUBLE = {
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
    "attn.add_v_proj", "attn.to_add_out", "norm1.linear", "norm1_context.linear", "ff.net.0.proj",
    "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
}  # fmt: skip
SINGLE = {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "norm.linear", "proj_out"}
EMBEDDERS = ("timestep_embedder", "text_embedder", "guidance_embedder")
OTHERS = {
    "x_embedder", "context_embedder", "proj_out", "norm_out.linear",
    *(f"time_text_embed.{name}.linear_{i}" for name in EMBEDDERS for i in (1, 2)),
}  # fmt: skip


def is_mapped(layer: str) -> bool:
    kind, _, rest = layer.partition(".")
    names = {"transformer_blocks": DOUBLE, "single_transformer_blocks": SINGLE}.get(kind)
    return layer in OTHERS if names is None else rest.partition(".")[2] in names


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lora")
    student.run(teacher, out, alpha=4.0)  # of rank 2
    return out


def as_comfyui_loads_it(weight: Tensor, lora: dict[str, Tensor], layer: str) -> Tensor:
    """Add a layer's LoRA as `LoRAAdapter.calculate_weight` does: reshape, then alpha / rank."""
    up, down = (lora.pop(f"transformer.{layer}.lora_{part}.weight") for part in "BA")
    shape = lora.pop(f"transformer.{layer}.reshape_weight", None)
    if shape is not None:
        wide = torch.zeros(shape.tolist())
        wide[:, : weight.shape[1]] = weight
        weight = wide
    alpha = lora.pop(f"transformer.{layer}.alpha", None)
    scale = 1.0 if alpha is None else alpha.item() / len(down)
    return weight + scale * (up.float() @ down.float()).reshape(weight.shape)


def test_comfyui_maps_every_key_and_arrives_at_the_weights_of_the_folder(trained, teacher):
    lora = load_file(trained / "lora" / "comfyui.safetensors")
    base = load_transformer(teacher, subfolder="transformer").state_dict()
    whole = load_file(trained / WEIGHTS)
    layers = {name[len("transformer.") :].partition(".lora_")[0] for name in lora if ".lora_A." in name}
    assert len(layers) == 12 and [layer for layer in layers if not is_mapped(layer)] == []
    for layer in layers:
        loaded = as_comfyui_loads_it(base[f"{layer}.weight"], lora, layer)
        torch.testing.assert_close(loaded, whole[f"{layer}.weight"], rtol=1e-4, atol=1e-6)
    assert lora == {}


def test_comfyui_maps_every_layer_of_a_whole_model(trained):
    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    names = [name.rpartition(".")[0] for name in load_file(trained / WEIGHTS)]
    assert [name for name in names if not is_mapped(name) and not name.endswith(norms)] == []


def test_the_file_is_not_taken_for_the_one_of_diffusers(trained, teacher):
    """A folder with both opens as before."""
    pipe = load_pipeline(teacher, weights=trained / "lora", device="cpu")
    assert pipe.transformer.peft_config["dsd"].lora_alpha == 4.0


# ---------------------------------------------------------------- the workflow

# Inputs that another node gives, and outputs, of ComfyUI's nodes; its other inputs are values.
NODES = {
    "UNETLoader": ({}, ["MODEL"], {"unet_name", "weight_dtype"}),
    "LoraLoaderModelOnly": ({"model": "MODEL"}, ["MODEL"], {"lora_name", "strength_model"}),
    "ModelSamplingFlux": ({"model": "MODEL"}, ["MODEL"], {"max_shift", "base_shift", "width", "height"}),
    "DualCLIPLoader": ({}, ["CLIP"], {"clip_name1", "clip_name2", "type"}),
    "CLIPTextEncode": ({"clip": "CLIP"}, ["CONDITIONING"], {"text"}),
    "FluxGuidance": ({"conditioning": "CONDITIONING"}, ["CONDITIONING"], {"guidance"}),
    "VAELoader": ({}, ["VAE"], {"vae_name"}),
    "LoadImage": ({}, ["IMAGE", "MASK"], {"image"}),
    "ImageScale": ({"image": "IMAGE"}, ["IMAGE"], {"upscale_method", "width", "height", "crop"}),
    "EmptyImage": ({}, ["IMAGE"], {"width", "height", "batch_size", "color"}),
    "ImageStitch": (
        {"image1": "IMAGE", "image2": "IMAGE"}, ["IMAGE"],
        {"direction", "match_image_size", "spacing_width", "spacing_color"},
    ),
    "InstructPixToPixConditioning": (
        {"positive": "CONDITIONING", "negative": "CONDITIONING", "vae": "VAE", "pixels": "IMAGE"},
        ["CONDITIONING", "CONDITIONING", "LATENT"], set(),
    ),
    "KSampler": (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        ["LATENT"], {"seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"},
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"], set()),
    "ImageCrop": ({"image": "IMAGE"}, ["IMAGE"], {"width", "height", "x", "y"}),
    "SaveImage": ({"images": "IMAGE"}, [], {"filename_prefix"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> dict[str, dict]:
    return json.loads(WORKFLOW.read_text())


def test_every_link_leads_to_an_output_of_the_kind_that_the_input_takes(graph):
    for node in graph.values():
        links, _, values = NODES[node["class_type"]]
        given = node["inputs"]
        assert given.keys() == links.keys() | values
        for name, kind in links.items():
            source, place = given[name]
            assert NODES[graph[source]["class_type"]][1][place] == kind
        assert not any(isinstance(given[name], list) for name in values)


def test_it_has_no_circle_and_every_node_leads_to_the_saved_image(graph):
    before = {
        name: [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        for name, node in graph.items()
    }
    *_, last = TopologicalSorter(before).static_order()
    assert graph[last]["class_type"] == "SaveImage"
    reached, todo = set(), [last]
    while todo:
        reached.add(name := todo.pop())
        todo += set(before[name]) - reached
    assert reached == graph.keys()


def test_the_canvas_is_the_reference_and_black_and_its_right_half_is_kept(graph):
    nodes = {node["class_type"]: node["inputs"] for node in graph.values()}
    assert len(nodes) == len(graph)
    side = nodes["ImageScale"]["width"]
    assert nodes["EmptyImage"] == {"width": side, "height": side, "batch_size": 1, "color": 0}
    stitched = nodes["ImageStitch"]
    assert graph[stitched["image1"][0]]["class_type"] == "ImageScale" and stitched["direction"] == "right"
    assert stitched["spacing_width"] == 0 and not stitched["match_image_size"]
    assert (nodes["ModelSamplingFlux"]["width"], nodes["ModelSamplingFlux"]["height"]) == (2 * side, side)
    crop = nodes["ImageCrop"]
    assert (crop["x"], crop["y"], crop["width"], crop["height"]) == (side, 0, side, side)
    assert nodes["KSampler"]["cfg"] == 1.0
