"""LoRA files: stacked styles, alpha kept, and files that bring their own input columns."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from dsd.generate import command
from dsd.model import lora
from dsd.model.checkpoint import LoadError, load_pipeline, model_hash, save_pipeline
from dsd.model.presets import LORA
from dsd.model.transformer import widen
from tests import tiny
from tests.tiny import draw


def lora_file(folder: Path, targets: list[str], seed: int, *, dropout: float = 0.0) -> Path:
    """A random LoRA (rank 2, alpha 4) saved as training saves one."""
    torch.manual_seed(seed)
    transformer = widen(tiny.plain_transformer())
    config = LoraConfig(
        r=2, lora_alpha=4, lora_dropout=dropout, target_modules=targets, init_lora_weights=False
    )
    transformer.add_adapter(config, adapter_name="new")
    FluxControlPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="new"),
        transformer_lora_adapter_metadata=transformer.peft_config["new"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    return lora_file(tmp_path_factory.mktemp("subject"), ["to_q", "to_k"], 1)


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> Path:
    return lora_file(tmp_path_factory.mktemp("style"), ["to_v"], 2)


def test_a_style_stacks_on_top_and_its_weight_counts(subject, style):
    pipe = tiny.pipeline()
    plain = draw(pipe)
    pipe.load_lora_weights(subject.parent, adapter_name="dsd")
    base = draw(pipe)
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="style")
    stacked = draw(pipe)
    assert pipe.get_active_adapters() == ["dsd", "style"]  # the first one still acts
    name = model_hash(pipe)
    pipe.set_adapters(["dsd", "style"], [1.0, 0.0])
    assert model_hash(pipe) != name  # the strengths are part of the provenance
    assert torch.equal(draw(pipe), base)
    pipe.set_adapters(["dsd", "style"], [1.0, 1.0])
    assert torch.equal(draw(pipe), stacked)
    assert not torch.allclose(stacked, base) and not torch.allclose(base, plain)


def test_the_scale_of_a_call_counts(style):
    pipe = tiny.pipeline()
    plain = draw(pipe)
    pipe.load_lora_weights(style.parent)
    assert torch.equal(draw(pipe, joint_attention_kwargs={"scale": 0.0}), plain)
    assert not torch.allclose(draw(pipe, joint_attention_kwargs={"scale": 1.0}), plain)


def test_unloading_restores_the_model(style):
    pipe = tiny.pipeline()
    plain, name = draw(pipe), model_hash(pipe)
    pipe.load_lora_weights(style.parent)
    assert model_hash(pipe) != name
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe), plain) and model_hash(pipe) == name


def test_alpha_survives_the_file(style):
    pipe = tiny.pipeline()
    pipe.load_lora_weights(style.parent, adapter_name="style")
    assert pipe.transformer.peft_config["style"].lora_alpha == 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_pipeline(tiny.pipeline(), folder)
    return folder


@pytest.mark.parametrize("as_folder", [False, True])
def test_load_pipeline_puts_a_lora_on_the_models_own_weights(saved, style, as_folder):
    pipe = load_pipeline(saved, weights=style.parent if as_folder else style, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    ours, direct = draw(pipe), tiny.pipeline()
    direct.load_lora_weights(style.parent)
    torch.testing.assert_close(ours, draw(direct), rtol=1e-4, atol=1e-5)


def test_a_lora_that_brings_input_columns_goes_on_the_widened_base(tmp_path):
    teacher = FluxControlPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()})
    teacher.save_pretrained(tmp_path / "teacher")
    file = lora_file(tmp_path, ["to_q", "x_embedder"], 3)
    pipe = load_pipeline(tmp_path / "teacher", weights=file, device="cpu")
    assert pipe.transformer.config.in_channels == 32
    weight = pipe.transformer.x_embedder.base_layer.weight
    assert (
        torch.equal(weight[:, :16], teacher.transformer.x_embedder.weight) and weight[:, 16:].abs().max() == 0
    )


def test_a_lora_with_dropout_in_its_file_draws_without_it(tmp_path):
    file, pipe = lora_file(tmp_path, ["to_q", "to_v"], 4, dropout=0.5), tiny.pipeline()
    pipe.load_lora_weights(file.parent)
    assert not any(module.training for module in pipe.transformer.modules())
    assert torch.equal(draw(pipe), draw(pipe))


def test_saving_with_a_lora_still_stacked_is_refused(tmp_path, style):
    pipe = tiny.pipeline()
    pipe.load_lora_weights(style.parent)
    with pytest.raises(ValueError, match="call pipe.fuse_lora"):
        save_pipeline(pipe, tmp_path)


# -- styles by name, checked before anything changes


@pytest.fixture
def odd(tmp_path):
    """Write a LoRA file from the shapes (inputs, outputs) of its layers."""

    def write(name: str = "odd.safetensors", **shapes: tuple[int, int]) -> Path:
        state = {}
        for layer, (inputs, outputs) in shapes.items():
            state[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, inputs)
            state[f"transformer.{layer}.lora_B.weight"] = torch.randn(outputs, 2)
        save_file(state, tmp_path / name)
        return tmp_path / name

    return write


QUERY = "transformer_blocks.0.attn.to_q"


def test_styles_act_together_and_say_how_many_layers_fit(saved, style, odd):
    file = odd(**{QUERY: (32, 32), "transformer_blocks.9.attn.to_q": (32, 32)})
    pipe = load_pipeline(saved, lora=[f"{style}:0.5", str(file)], device="cpu")
    assert [report.report for report in pipe.styles] == [
        "pytorch_lora_weights.safetensors: 2 of 2 layers, scale 0.5",
        "odd.safetensors: 1 of 2 layers, scale 1",
    ]
    assert pipe.get_active_adapters() == ["style-0", "style-1"]
    assert not any(module.training for module in pipe.transformer.modules())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"blocks.0.attn.to_q": (32, 32)}, "odd.safetensors changes no layer of this model"),
        ({QUERY: (64, 64)}, "has 64 inputs and 64 outputs, and this model's has 32 and 32"),
        ({"x_embedder": (16, 32)}, "changes x_embedder, .* pass a trained student with --weights"),
        ({}, "odd.safetensors is not a LoRA for FLUX"),
    ],
)
def test_a_style_that_does_not_fit_is_refused_before_anything_changes(odd, style, shapes, message):
    pipe = tiny.pipeline()
    name = model_hash(pipe)
    with pytest.raises(LoadError, match=message):
        lora.add_styles(pipe, [lora.Style("style"), lora.Style("odd")], [style, odd(**shapes)])
    assert model_hash(pipe) == name and not pipe.styles


def test_input_columns_in_kohyas_keys_are_seen(tmp_path):
    state = {"lora_unet_img_in.lora_down.weight": torch.ones(2, 16)}
    state |= {"lora_unet_img_in.lora_up.weight": torch.ones(32, 2)}
    save_file(state, tmp_path / "kohya.safetensors")
    layers, _ = lora.read(tmp_path / "kohya.safetensors")
    assert list(layers) == ["x_embedder"]  # diffusers leaves out the prefix and so ignores it


def test_weights_that_read_no_reference_are_refused(tmp_path, odd):
    FluxControlPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()}).save_pretrained(
        tmp_path / "base"
    )
    file = odd(**{QUERY: (32, 32), "x_embedder": (16, 32)})
    with pytest.raises(
        LoadError, match="its x_embedder has 16 inputs and 32 outputs, and this model's has 32"
    ):
        load_pipeline(tmp_path / "base", weights=file, device="cpu")


# -- students that fit in part


def test_a_student_that_fits_in_part_is_loaded_with_a_count(saved, odd, caplog):
    whole = odd("whole.safetensors", **{QUERY: (32, 32)})
    load_pipeline(saved, weights=whole, device="cpu")
    assert "layers fit" not in caplog.text
    file = odd(**{QUERY: (32, 32), "transformer_blocks.9.attn.to_q": (32, 32)})
    command.quiet()  # as the commands do
    caplog.clear()
    load_pipeline(saved, weights=file, device="cpu")
    (said,) = caplog.messages
    assert said.startswith("odd.safetensors: 1 of its 2 layers fit this model, and the others, such as ")
    assert "transformer_blocks.9.attn.to_q, have no effect" in said


@pytest.fixture
def student(tmp_path) -> Path:
    """A folder with a transformer, beside which a LoRA may lie."""
    tiny.transformer().save_pretrained(tmp_path / "student" / "transformer")
    return tmp_path / "student"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"blocks.0.attn.to_q": (32, 32)}, "changes no layer of this model"),
        ({QUERY: (64, 64)}, "has 64 inputs and 64 outputs"),
        ({QUERY: (32, 32), "x_embedder": (16, 32)}, "its x_embedder has 16 inputs"),
    ],
)
def test_a_lora_beside_a_transformer_is_checked_too(saved, student, odd, shapes, message):
    odd(f"student/{LORA}", **shapes)
    with pytest.raises(LoadError, match=message):
        load_pipeline(saved, weights=student, device="cpu")


def test_a_lora_beside_a_transformer_is_counted_too(saved, student, odd, caplog):
    odd(f"student/{LORA}", **{QUERY: (32, 32), "transformer_blocks.9.attn.to_q": (32, 32)})
    load_pipeline(saved, weights=student, device="cpu")
    assert f"{LORA}: 1 of its 2 layers fit this model" in caplog.text


@pytest.mark.parametrize("part", ["A", "B"])
@pytest.mark.parametrize("layer", ["x_embedder", QUERY])
def test_half_of_a_layer_is_refused(saved, odd, part, layer):
    file = odd(**{QUERY: (32, 32), "x_embedder": (32, 32)})
    state = load_file(file)
    del state[f"transformer.{layer}.lora_{part}.weight"]
    save_file(state, file)
    with pytest.raises(LoadError, match=f"odd.safetensors has {layer} without its lora_{part}.weight: "):
        load_pipeline(saved, weights=file, device="cpu")


@pytest.mark.parametrize(
    ("text", "source", "scale"),
    [("a.safetensors", "a.safetensors", 1.0), ("me/style:0.5", "me/style", 0.5), ("C:\\a", "C:\\a", 1.0)],
)
def test_a_style_is_named_with_its_scale(text, source, scale):
    assert lora.parse(text) == lora.Style(source, scale)


def test_a_scale_is_a_finite_number():
    with pytest.raises(LoadError, match="must be a number such as 0.8, got 'a:nan'"):
        lora.parse("a:nan")


def test_a_folder_of_several_loras_asks_for_one(odd, tmp_path):
    file = odd("a.safetensors", **{QUERY: (32, 32)})
    assert lora.find(str(tmp_path)) == file
    odd("b.safetensors", **{QUERY: (32, 32)})
    with pytest.raises(LoadError, match="several LoRAs, so name one, such as .*a.safetensors"):
        lora.find(str(tmp_path))
