"""The pocket family's two tokenizers and text encoders: the stock FLUX classes with a small vocabulary.

CLIP (pooled) reads byte pairs; T5 (token by token) reads whole words, and learns to ignore `<unk>`, which is
any word outside the vocabulary. Both tokenizers are functions of the vocabulary alone.
"""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from dsd.pocket.phrases import VOCABULARY

CLIP_TOKENS = 48  # the longest pooled prompt; a 2x2 grid prompt has up to 40 words
T5_TOKENS = 28  # enough for one image; grid prompts need more
LAYOUT_TOKENS = {"1x2": 32, "2x2": 44}  # of a grid's prompt, by rows x columns


class Speller:
    """Both tokenizers at once."""

    def __init__(self):
        self.clip, self.t5 = build_clip_tokenizer(), build_t5_tokenizer()

    def __call__(self, prompts: list[str], tokens: int) -> tuple[Tensor, Tensor]:
        """Return ids for T5 [B, tokens] and for CLIP [B, CLIP_TOKENS], as in `FluxPipeline`."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        t5 = self.t5(prompts, max_length=tokens, **options).input_ids
        return t5, self.clip(prompts, max_length=CLIP_TOKENS, **options).input_ids


def build_clip_tokenizer() -> CLIPTokenizer:
    """Return a byte-pair tokenizer with one token for each of our words; other words split into letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], str] = {}
    for word in VOCABULARY:  # merged from its marked end, so that no merge applies within another word
        right = f"{word[-1]}</w>"
        for letter in reversed(word[:-1]):
            right = merges.setdefault((letter, right), letter + right)
    pieces += list(dict.fromkeys(merges.values()))
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=CLIP_TOKENS)


def build_t5_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, lower-cased, without punctuation; others are `<unk>`."""
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *VOCABULARY])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=T5_TOKENS,
        layout_tokens=LAYOUT_TOKENS,  # saved with the tokenizer, for drawing grids with these weights
    )  # fmt: skip


def build_clip_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_attention_heads=4,
        num_hidden_layers=1, max_position_embeddings=CLIP_TOKENS, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_t5_encoder(tokenizer: PreTrainedTokenizerFast, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_ff=2 * width, d_kv=width // 4, num_heads=4, num_layers=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        relative_attention_num_buckets=16, relative_attention_max_distance=32,
    )  # fmt: skip
    return T5EncoderModel(config)
