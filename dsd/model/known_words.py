"""Which words of a prompt a model does not know, and the nearest ones that it does.

What a model knows is what its tokenizer can spell: pocket's has a few hundred words, FLUX's T5 no Chinese.
"""

import difflib
import re
from typing import Any

SHOWN = 3  # near words for each unknown one
ALIKE = 0.7  # the least share of letters that two near words have in common, by `difflib`
WORD_START = "\u2581"  # before a word's first piece, in a SentencePiece vocabulary


def unknown_words(pipe: Any, prompt: str) -> dict[str, list[str]]:
    """Return the words of `prompt` that the model's T5 tokenizer does not know, in their order.

    Each comes with up to three of the nearest known words, which may be none.
    """
    tokenizer = getattr(pipe, "tokenizer_2", None)
    if tokenizer is None or tokenizer.unk_token_id is None:
        return {}
    words = dict.fromkeys(re.findall(r"\w[\w'-]*", prompt))
    unknown = [word for word in words if tokenizer.unk_token_id in _ids(tokenizer, word)]
    known = _known(tokenizer) if unknown else []
    return {word: difflib.get_close_matches(word.lower(), known, SHOWN, ALIKE) for word in unknown}


def notice(unknown: dict[str, list[str]]) -> str | None:
    """Return one sentence about unknown words, or None where there are none."""
    if not unknown:
        return None
    quoted = ", ".join(f'"{word}"' for word in unknown)
    near = list(dict.fromkeys(word for words in unknown.values() for word in words))
    nearest = f" The nearest words that it knows: {', '.join(near)}." if near else ""
    return f"This model does not know {quoted} and ignores {'it' if len(unknown) == 1 else 'them'}.{nearest}"


def _ids(tokenizer: Any, word: str) -> list[int]:
    return tokenizer(word, add_special_tokens=False, verbose=False).input_ids


def _known(tokenizer: Any) -> list[str]:
    """Return the tokenizer's whole words, of two letters and more."""
    pieces = tokenizer.get_vocab()
    marked = any(piece.startswith(WORD_START) for piece in pieces)
    words = (p.removeprefix(WORD_START) for p in pieces if not marked or p.startswith(WORD_START))
    return sorted(word for word in words if len(word) > 1 and word.isalpha())
