"""Widening changes nothing at first; both layouts open; a checkpoint that does not fit says which keys."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

import dsd.model.transformer
from dsd.model.transformer import load_transformer, widen
from tests import tiny

PUBLISHED = Path(__file__).parents[1] / "reference_parity" / "transformer"


def velocity(model: FluxTransformer2DModel, hidden: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=hidden,
            encoder_hidden_states=torch.randn(1, 5, model.config.joint_attention_dim, generator=generator),
            pooled_projections=torch.randn(1, model.config.pooled_projection_dim, generator=generator),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.zeros(hidden.shape[1], 3),
            txt_ids=torch.zeros(5, 3),
        ).sample


def test_widening_is_the_identity_at_first():
    plain = tiny.plain_transformer()
    wide = widen(plain)
    noise, condition = torch.randn(1, 8, 16), 10 * torch.randn(1, 8, 16)
    assert (wide.config.in_channels, wide.config.out_channels, wide.proj_out.out_features) == (32, 16, 16)
    ours = velocity(wide, torch.cat([noise, condition], dim=-1))
    torch.testing.assert_close(ours, velocity(plain, noise), rtol=1e-6, atol=1e-6)


def test_widening_leaves_the_old_one_and_copies_nothing():
    plain = tiny.plain_transformer()
    wide = widen(plain)
    assert plain.config.in_channels == 16 and wide.x_embedder.in_features == 32
    assert wide.proj_out.weight.data_ptr() == plain.proj_out.weight.data_ptr()
    assert all(parameter.requires_grad for parameter in wide.parameters())


def test_widening_twice_is_refused():
    with pytest.raises(ValueError, match="already widened: 32 channels in, 16 out"):
        widen(tiny.transformer())


def test_the_published_layout_becomes_one_linear():
    model, file = load_transformer(PUBLISHED), load_file(PUBLISHED / "diffusion_pytorch_model.safetensors")
    noise, condition = torch.randn(1, 4, 64), torch.randn(1, 4, 64)
    theirs = sum(
        torch.nn.functional.linear(x, file[f"{name}.weight"], file[f"{name}.bias"])
        for name, x in (("x_embedder", noise), ("c_embedder", condition))
    )
    torch.testing.assert_close(
        model.x_embedder(torch.cat([noise, condition], -1)), theirs, rtol=1e-5, atol=1e-5
    )
    assert type(model) is FluxTransformer2DModel and not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize("shard", ["10GB", "50KB"])
def test_what_diffusers_saved_opens(tmp_path, shard):
    saved = tiny.transformer()
    saved.save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    assert (len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1) == (shard == "50KB")
    for opened in (load_transformer(tmp_path), load_transformer(tmp_path, subfolder="transformer")):
        assert all(
            torch.equal(value, saved.state_dict()[name]) for name, value in opened.state_dict().items()
        )
        assert not any(parameter.is_meta for parameter in opened.parameters()) and not opened.training


@pytest.mark.parametrize("place", ["", "transformer"])
def test_a_hub_id_opens_with_or_without_a_subfolder(tmp_path, monkeypatch, place):
    tiny.transformer().save_pretrained(tmp_path / place)

    def download(repo: str, name: str, *, subfolder: str | None, **access) -> str:
        file = tmp_path / (subfolder or "") / name
        if not file.is_file():
            raise EntryNotFoundError(f"{repo} has no {file}")
        return str(file)

    monkeypatch.setattr(dsd.model.transformer, "hf_hub_download", download)
    assert load_transformer("owner/name").config.in_channels == 32
    with pytest.raises(EntryNotFoundError, match="owner/name has no"):
        load_transformer("owner/name", subfolder="elsewhere")


def test_dtype_is_kept_or_changed(tmp_path):
    tiny.transformer().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_transformer(tmp_path).dtype == torch.bfloat16
    assert load_transformer(tmp_path, dtype=torch.float32).dtype == torch.float32


def edited(tmp_path: Path, edit) -> Path:
    """A saved transformer whose tensors went through `edit`."""
    tiny.transformer().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = {name: value.clone() for name, value in load_file(file).items()}
    edit(state)
    save_file(state, file)
    return tmp_path


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ValueError, match="(?s)Missing key.*proj_out.bias"):
        load_transformer(edited(tmp_path, lambda state: state.pop("proj_out.bias")))


def test_an_unexpected_key_is_named(tmp_path):
    with pytest.raises(ValueError, match="(?s)Unexpected key.*extra.weight"):
        load_transformer(edited(tmp_path, lambda state: state.update({"extra.weight": torch.zeros(1)})))


def test_leftover_lora_keys_are_ignored(tmp_path):
    leftover = {"proj_out.lora_A.weight": torch.zeros(1)}
    model = load_transformer(edited(tmp_path, lambda state: state.update(leftover)))
    assert not any("lora" in name for name in model.state_dict())


def test_a_wrong_shape_is_named(tmp_path):
    with pytest.raises(ValueError, match="proj_out.bias"):
        load_transformer(edited(tmp_path, lambda state: state.update({"proj_out.bias": torch.zeros(3)})))


def test_a_missing_shard_is_named(tmp_path):
    tiny.transformer().save_pretrained(tmp_path, max_shard_size="50KB")
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    lost = sorted(set(index["weight_map"].values()))[1]
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=lost):
        load_transformer(tmp_path)


def test_a_folder_without_a_transformer_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no transformer in"):
        load_transformer(tmp_path)
