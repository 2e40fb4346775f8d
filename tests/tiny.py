"""A whole pipeline of random weights, built offline in no time: the stock classes, as small as they go."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dsd.model.pipeline import DSDPipeline
from dsd.model.transformer import widen

LETTERS = [chr(code) for code in range(33, 127)]
FRAME = 32  # pixels
PROMPTS = ["a red hat", "on the beach"]


def tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in LETTERS),
    ]
    clip = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    return clip, T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16)


def text_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
    )
    t5_config = T5Config(vocab_size=len(t5), d_model=32, d_ff=37, d_kv=8, num_layers=2, num_heads=4)
    return CLIPTextModel(clip_config).eval(), T5EncoderModel(t5_config).eval()


def vae(sample_size: int = 2 * FRAME) -> AutoencoderKL:
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        norm_num_groups=1,
        sample_size=sample_size,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return still(model).eval()


def still(model: AutoencoderKL) -> AutoencoderKL:
    """No variance: samples are the mode, so that the stock pipeline's sampling changes nothing."""
    with torch.no_grad():
        model.encoder.conv_out.weight[model.config.latent_channels :] = 0
        model.encoder.conv_out.bias[model.config.latent_channels :] = -60
    return model


def plain_transformer(guidance_embeds: bool = True) -> FluxTransformer2DModel:
    """Not widened: the teacher's."""
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    ).eval()


def transformer(guidance_embeds: bool = True) -> FluxTransformer2DModel:
    """Widened, with columns that are not zero, as after training."""
    model = widen(plain_transformer(guidance_embeds))
    with torch.no_grad():
        model.x_embedder.weight[:, 16:].normal_(std=0.3)
    return model


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def components(*, seed: int = 0, guidance_embeds: bool = True) -> dict:
    """Every component of a pipeline, seeded, float32, on the CPU."""
    torch.manual_seed(seed)
    clip, t5 = tokenizers()
    text_encoder, text_encoder_2 = text_encoders(clip, t5)
    return {
        "scheduler": scheduler(),
        "vae": vae(),
        "transformer": transformer(guidance_embeds),
        "tokenizer": clip,
        "tokenizer_2": t5,
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
    }


def pipeline(*, seed: int = 0, guidance_embeds: bool = True) -> DSDPipeline:
    """A `DSDPipeline` of frames of 32 pixels."""
    pipe = DSDPipeline(**components(seed=seed, guidance_embeds=guidance_embeds))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(seed: int = 0, size: tuple[int, int] = (FRAME, FRAME)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def difference(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of any pixel."""
    return int(np.abs(np.subtract(one, other, dtype=int)).max())


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe: DSDPipeline, prompt: str | list[str] = PROMPTS[0], **options) -> torch.Tensor:
    """Packed latents after a few steps; the options of the test go over these."""
    common = {"image": image(), "num_inference_steps": 3, "generator": seeded(0), "output_type": "latent"}
    return pipe(prompt, **{**common, **options}).images


def count_calls(pipe: DSDPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the batch size at every call of the transformer."""
    sizes, forward = [], pipe.transformer.forward

    def counted(**inputs):
        sizes.append(len(inputs["hidden_states"]))
        return forward(**inputs)

    monkeypatch.setattr(pipe.transformer, "forward", counted)
    return sizes


TALK = (
    "the same critter is red round striped on a hill with hat and no eyes compare describe what it"
).split()
END = 2
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer:{% endif %}"
)
QWEN_MARKS = ("vision_start", "vision_end", "image_pad", "video_pad")
QWEN_TEMPLATE = LLAVA_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")


def word_tokenizer(*marks: str, words: Sequence[str] = (), **options) -> PreTrainedTokenizerFast:
    """One token a word; `marks` are special tokens besides the usual four, `words` more than the usual."""
    vocab = ["<pad>", "<s>", "</s>", "<unk>", *marks, "answer:", *TALK, *words]  # "</s>" is END
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        **options,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    return tokenizer


def lively(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Weights so large that what is seen and asked moves the answer; as built it would hardly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=1.5 / weight[0].numel() ** 0.5, generator=generator)
        if (head := model.get_output_embeddings()) is not None:
            head.weight[END] *= 0.5  # it may stop talking, but not too soon
    return model.eval()


def vlm(folder: Path, *, seed: int = 0, words: Sequence[str] = (), template: str = LLAVA_TEMPLATE) -> Path:
    """A Llava with SigLIP eyes of 16 pixels and a vocabulary of twenty words, saved in `folder`."""
    tokenizer = word_tokenizer(words=words, extra_special_tokens={"image_token": "<image>"})
    eyes = SiglipImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**sizes, image_size=16, patch_size=8, vision_use_head=False),
        text_config=LlamaConfig(
            **sizes, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=END
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    lively(LlavaForConditionalGeneration(config), seed).save_pretrained(folder)
    LlavaProcessor(
        eyes, tokenizer, patch_size=8, vision_feature_select_strategy="full", chat_template=template
    ).save_pretrained(folder)
    return folder


def qwen(folder: Path, *, seed: int = 0) -> Path:
    """A Qwen2.5-VL, saved in `folder` as the published ones are: an image processor and a tokenizer."""
    tokenizer = word_tokenizer(*(f"<|{name}|>" for name in QWEN_MARKS))
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in QWEN_MARKS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": END,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1],
        },
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
    )  # fmt: skip
    lively(Qwen2_5_VLForConditionalGeneration(config), seed).save_pretrained(folder)
    tokenizer.chat_template = QWEN_TEMPLATE
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    ).save_pretrained(folder)
    return folder
