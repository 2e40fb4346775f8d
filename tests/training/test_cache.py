"""The caches of latents and texts: never stale, never half written, damage found and named."""

import json

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from safetensors.torch import load_file, save_file

from dsd.model import latents
from dsd.model.canvas import to_tensor
from dsd.training import cache
from dsd.training.cache import (
    ImageEncoder,
    Store,
    TextEncoder,
    encode_missing,
    fingerprint,
    image_hash,
    text_hash,
)
from tests import tiny


def record(number: int) -> tuple[torch.Tensor, ...]:
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
    return values.half(), values[0].bfloat16()


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path)
    store.write({f"key {i}": record(i) for i in range(4)})
    return store


def test_what_is_written_is_read_back_by_another_process(store):
    again = Store(store.folder)
    assert not again.has({"key 4"})
    for i in range(4):
        stored = again.read(f"key {i}")
        assert all(torch.equal(one, other) for one, other in zip(stored, record(i), strict=True))


def test_records_of_different_shapes_go_together(tmp_path):
    store = Store(tmp_path)
    store.write({"small": (torch.zeros(2),), "large": (torch.ones(3),)})
    again = Store(tmp_path)
    assert [len(again.read(key)[0]) for key in ("small", "large")] == [2, 3]


def cut(content: bytes) -> bytes:
    return content[:-20]


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


def rename(content: bytes) -> bytes:
    return content.replace(b"key 0", b"key 8")


def retype(content: bytes) -> bytes:
    return content.replace(b'"F16"', b'"I16"')


@pytest.mark.parametrize("damage", [cut, flip, rename, retype])
def test_a_damaged_file_is_named_and_its_records_are_made_again(store, damage, caplog):
    (path,) = store.folder.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    again = Store(store.folder)
    assert f"{path} is damaged" in caplog.text and "encoded again" in caplog.text
    assert not again.has({"key 0"}) and not again.has({"key 3"}) and not path.exists()
    again.write({f"key {i}": record(i) for i in range(4)})  # the same records go into the same file
    assert path.exists() and Store(store.folder).has({f"key {i}" for i in range(4)})


def test_a_file_without_a_checksum_as_earlier_versions_wrote_it_opens(store):
    (path,) = store.folder.glob("*.safetensors")
    save_file(load_file(path), path, metadata={"records": json.dumps({"keys": ["old"]})})
    assert Store(store.folder).has({"old"})


def test_a_damaged_file_that_another_process_deletes_meanwhile_is_passed_over(store, monkeypatch):
    (path,) = store.folder.glob("*.safetensors")
    read = cache._read

    def deleted(path):
        path.unlink()
        return read(path)

    monkeypatch.setattr(cache, "_read", deleted)
    assert not Store(store.folder).has({"key 0"}) and not path.exists()


def test_what_another_process_wrote_is_taken_in(store):
    other = Store(store.folder)
    other.write({"new": record(9)})
    assert not store.has({"new"}) and store.refresh().has({"new"})


def test_all_processes_and_a_resumed_one_read_the_same_of_two_records_with_one_key(tmp_path):
    """Two processes encode an image in batches of other images, and their records differ by rounding."""
    stores = [Store(tmp_path), Store(tmp_path)]
    for number, store in enumerate(stores):
        store.write({"shared": record(number), f"own {number}": record(9)})
    read = [store.refresh().read("shared")[0] for store in (*stores, Store(tmp_path))]
    assert torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])


def test_a_changed_encoder_has_another_folder(tmp_path):
    pipe = tiny.pipeline()
    before = ImageEncoder(pipe.vae, tmp_path).store.folder, TextEncoder(pipe, 8, tmp_path).store.folder
    assert ImageEncoder(tiny.pipeline().vae, tmp_path).store.folder == before[0]
    with torch.no_grad():
        pipe.vae.encoder.conv_in.bias[0] += 1e-6
        pipe.text_encoder_2.shared.weight[3, 3] += 1e-3
    assert ImageEncoder(pipe.vae, tmp_path).store.folder != before[0]
    assert TextEncoder(pipe, 8, tmp_path).store.folder != before[1]
    assert TextEncoder(tiny.pipeline(), 9, tmp_path).store.folder != before[1]  # of another length


def test_another_config_over_the_same_weights_has_another_name():
    parts = tiny.components()
    for name, changed in (("text_encoder", {"num_attention_heads": 1}), ("vae", {"act_fn": "relu"})):
        part = parts[name]
        before = fingerprint(part)
        part.config._name_or_path = "elsewhere"
        assert fingerprint(part) == before
        if name == "vae":
            part.register_to_config(**changed)
        else:
            part.config.update(changed)
        assert fingerprint(part) != before


def test_texts_that_clip_pads_to_another_length_are_kept_apart(tmp_path):
    pipe, other = tiny.pipeline(), tiny.pipeline()
    other.tokenizer_max_length = 40
    assert TextEncoder(pipe, 8, tmp_path).store.folder != TextEncoder(other, 8, tmp_path).store.folder


def test_a_changed_tokenizer_has_another_name():
    one, other = tiny.tokenizers()
    assert fingerprint(one) != fingerprint(other)


def test_images_are_named_by_size_and_pixels():
    image = tiny.image(1, (32, 16))
    turned = Image.frombytes("RGB", (16, 32), image.tobytes())
    assert len({image_hash(image), image_hash(turned), image_hash(tiny.image(2, (32, 16)))}) == 3
    assert image_hash(image.copy()) == image_hash(image)


def test_cached_latents_are_the_encoders(tmp_path):
    encoder = ImageEncoder(tiny.pipeline().vae, tmp_path)
    images = {f"{i}": tiny.image(i, (32 + 16 * (i % 2), 32)) for i in range(4)}
    encode_missing(encoder, images)
    for key, image in images.items():
        (stored,) = encoder.store.read(key)
        with torch.no_grad():
            expected = latents.encode(encoder.vae, to_tensor([image]))[0]
        torch.testing.assert_close(stored.float(), expected, rtol=2e-3, atol=2e-3)


def test_cached_texts_are_the_pipelines(tmp_path):
    pipe = tiny.pipeline()
    encoder = TextEncoder(pipe, 8, tmp_path)
    encode_missing(encoder, {text_hash(text): text for text in ("", "a red hat")})
    embeds, pooled = encoder.store.read(text_hash("a red hat"))
    with torch.no_grad():
        expected = pipe.encode_prompt("a red hat", None, max_sequence_length=8)
    torch.testing.assert_close(embeds.float(), expected[0][0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pooled.float(), expected[1][0], rtol=2e-3, atol=2e-3)


def test_nothing_is_encoded_twice_and_nothing_infinite_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("dsd.training.cache.BATCH", 2)

    class Encoder:
        store, calls = Store(tmp_path), []

        def encode(self, numbers: list[float]) -> list:
            self.calls.append(numbers)
            return [(torch.tensor([number]),) for number in numbers]

    encoder = Encoder()
    encode_missing(encoder, {"a": 1.0, "b": float("inf"), "c": 3.0})
    encode_missing(encoder, {"a": 1.0, "c": 3.0, "d": 4.0})
    assert encoder.calls == [[1.0, float("inf")], [3.0], [4.0]]
    assert not encoder.store.has({"b"}) and encoder.store.read("d")[0] == 4.0


def test_a_vae_that_sees_across_blocks_encodes_whole_canvases(tmp_path):
    class Blind(torch.nn.Conv2d):  # reads 8 x 8 blocks one by one, as pocket's VAE does
        config = FrozenDict(scaling_factor=1.0, shift_factor=0.0)
        dtype, device = torch.float32, torch.device("cpu")

        def encode(self, pixels: torch.Tensor):
            return type("Encoded", (), {"latents": self(pixels)})

    assert not ImageEncoder(tiny.pipeline().vae, tmp_path).encodes_frames
    assert ImageEncoder(Blind(3, 4, 8, stride=8), tmp_path).encodes_frames
