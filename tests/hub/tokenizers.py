"""The two tokenizers of FLUX as they are published: every file, with a vocabulary of single letters."""

import json
import struct
from pathlib import Path

from tests.tiny import LETTERS

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_LENGTH, T5_LENGTH, EXTRA = 77, 512, 100
MERGES = ["o n", "t h", "th e</w>", "a n", "r e", "re d</w>", "h a", "ha t</w>", "i n</w>"]


def clip_vocabulary() -> dict[str, int]:
    """Return the words by their number; the end token comes last, because the text encoder looks for it."""
    merged = [line.replace(" ", "") for line in MERGES]
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *merged, START, END]
    return {word: number for number, word in enumerate(words)}


def write_clip(folder: Path) -> int:
    """Write CLIP's tokenizer as `vocab.json` and `merges.txt`, and return the size of its vocabulary."""
    folder.mkdir(parents=True)
    vocabulary = clip_vocabulary()
    start, end = _special(START, normalized=True), _special(END, normalized=True)
    added = {str(vocabulary[one["content"]]): {**one, "special": True} for one in (start, end)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    _write(folder / "special_tokens_map.json", bos_token=start, eos_token=end, pad_token=END, unk_token=end)
    _write(
        folder / "tokenizer_config.json",
        add_prefix_space=False, bos_token=START, clean_up_tokenization_spaces=True, do_lower_case=True,
        added_tokens_decoder=added, eos_token=END, errors="replace", model_max_length=CLIP_LENGTH,
        pad_token=END, tokenizer_class="CLIPTokenizer", unk_token=END,
    )  # fmt: skip
    return len(vocabulary)


def _special(word: str, *, normalized: bool = False) -> dict:
    return {"content": word, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def _write(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content, indent=2))


# ---------------------------------------------------------------- T5


def t5_pieces() -> list[tuple[str, float]]:
    words = ["▁the", "▁a", "▁on", "▁in", "▁red", "▁hat", "▁same", "▁grid", "▁of"]
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return [*known, *((word, -1.0) for word in words), *((letter, -3.0) for letter in LETTERS)]


def write_t5(folder: Path, length: int = T5_LENGTH) -> int:
    """Write T5's tokenizer as `spiece.model` and `tokenizer.json`, and return the size of its vocabulary."""
    folder.mkdir(parents=True)
    pieces = t5_pieces()
    extra = [f"<extra_id_{number}>" for number in range(EXTRA)]
    numbers = {word: len(pieces) + EXTRA - 1 - number for number, word in enumerate(extra)}
    numbers |= {"<pad>": 0, "</s>": 1, "<unk>": 2}
    added = sorted((number, word) for word, number in numbers.items())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "spiece.model").write_bytes(sentencepiece_model(pieces))
    (folder / "tokenizer.json").write_text(
        json.dumps(_t5_backend(pieces + [(w, 0.0) for w in extra[::-1]], added))
    )
    _write(
        folder / "special_tokens_map.json",
        additional_special_tokens=extra, **{name: _special(word) for name, word in special.items()},
    )  # fmt: skip
    _write(
        folder / "tokenizer_config.json",
        add_prefix_space=True, additional_special_tokens=extra, clean_up_tokenization_spaces=True,
        added_tokens_decoder={str(number): {**_special(word), "special": True} for number, word in added},
        extra_ids=EXTRA, legacy=True, model_max_length=length, sp_model_kwargs={},
        tokenizer_class="T5Tokenizer", **special,
    )  # fmt: skip
    return len(pieces) + EXTRA


def _t5_backend(pieces: list[tuple[str, float]], added: list[tuple[int, str]]) -> dict:
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, **_special(word), "special": True} for number, word in added],
        "normalizer": None, "pre_tokenizer": space, "decoder": space,
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, end], "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip


def sentencepiece_model(pieces: list[tuple[str, float]]) -> bytes:
    """Return a `spiece.model`: a protocol buffer with a message (piece, score, type) for each piece."""
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    return b"".join(_field(1, _piece(word, score, kinds.get(word, 1))) for word, score in pieces)


def _piece(word: str, score: float, kind: int) -> bytes:
    return _field(1, word.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128  # so that its length is one byte
    return bytes([number << 3 | 2, len(content)]) + content


# ---------------------------------------------------------------- Qwen

QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
QWEN_TEMPLATE = (  # of Qwen-Image; each word and sign is one token, as in the published vocabulary
    " the image by detailing the color shape size texture quantity text spatial relationships of objects and "
    "background"
)
QWEN_WORDS = ("user", "assistant", "system", "Describe")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def write_qwen(folder: Path) -> int:
    """Write Qwen's byte-level tokenizer and return the size of its vocabulary."""
    folder.mkdir(parents=True)
    merges = ["Ċ Ċ"]  # spelled with the bytes' letters: newline and space are Ċ and Ġ
    for word in (*QWEN_TEMPLATE.replace(" ", " Ġ").split(), *QWEN_WORDS):
        merges += [f"{word[:end]} {word[end]}" for end in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    words = [*LETTERS, "Ġ", "Ċ", *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    marks = {len(vocabulary) + number: mark for number, mark in enumerate(QWEN_MARKS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="Qwen2Tokenizer", model_max_length=131072, errors="replace", add_prefix_space=False,
        pad_token=QWEN_MARKS[0], eos_token="<|im_end|>", unk_token=None, bos_token=None, chat_template=CHAT,
        added_tokens_decoder={str(n): {**_special(mark), "special": True} for n, mark in marks.items()},
    )  # fmt: skip
    return len(vocabulary) + len(marks)
