"""The pocket family's two tokenizers and text encoders: the stock FLUX classes, a few words wide.

CLIP (pooled) reads byte pairs learnt from our own captions; T5 (token by token) reads whole words. A word that
the drawn world does not know becomes one `<unk>`, which training teaches the model to overlook.
"""

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from dsd.pocket.words import VOCABULARY, grid_prompt, phrase
from dsd.pocket.world import sample_context, sample_critter

CLIP_TOKENS = 48  # the longest pooled prompt; a 2x2 grid prompt has about 40 words
T5_TOKENS = 24  # enough for one picture; grid prompts ask for 40 (`max_sequence_length=40`)


def sample_prompts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [_sample_prompt(rng, i) for i in range(count)]


def _sample_prompt(rng: np.random.Generator, i: int) -> str:
    critter = sample_critter(rng)
    if i % 3 == 0:
        return grid_prompt(critter, [sample_context(rng) for _ in range(4)])
    return phrase(critter, sample_context(rng), rng)


def build_clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair merges learnt with CLIP's own splitting, so that our frequent words are one token each."""
    bare = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    backend.normalizer, backend.pre_tokenizer = bare.backend_tokenizer.normalizer, bare.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sample_prompts(3000), trainer)
    model = _bpe_state(backend)
    return CLIPTokenizer(vocab=model["vocab"], merges=model["merges"], model_max_length=CLIP_TOKENS)


def _bpe_state(backend: Tokenizer) -> dict:
    """CLIP needs every letter as a last letter too (`a</w>`), which the trainer adds only where it met one."""
    import json

    state = json.loads(backend.to_str())["model"]
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        state["vocab"].setdefault(f"{letter}</w>", len(state["vocab"]))
    state["merges"] = [tuple(pair) for pair in state["merges"]]
    return state


def build_t5_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, lower-cased, punctuation dropped; an unknown word is one `<unk>`."""
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *VOCABULARY])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=T5_TOKENS
    )


def build_clip_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_attention_heads=4,
        num_hidden_layers=1, max_position_embeddings=CLIP_TOKENS, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_t5_encoder(tokenizer: PreTrainedTokenizerFast, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_ff=2 * width, d_kv=width // 4, num_heads=4, num_layers=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
        relative_attention_num_buckets=16, relative_attention_max_distance=32,
    )  # fmt: skip
    return T5EncoderModel(config)
