"""Find the words of a prompt that a model does not know, and the nearest words that it knows.

A model knows the words that its tokenizer can spell: pocket's tokenizer has a few hundred words, and FLUX's
T5 tokenizer has no Chinese.
"""

import difflib
import re
from typing import Any

MOST = 100  # words of a prompt that are looked at: nobody reads more suggestions
SHOWN = 3  # suggestions per unknown word
ALIKE = 0.7  # minimum similarity of a suggestion, as a `difflib` ratio
WORD_START = "\u2581"  # marks the first piece of a word in a SentencePiece vocabulary


def unknown_words(pipe: Any, prompt: str) -> dict[str, list[str]]:
    """Return the words of `prompt` that the model does not know, each with up to three near ones it knows."""
    tokenizer = getattr(pipe, "tokenizer_2", None)
    if tokenizer is None or tokenizer.unk_token_id is None:
        return {}
    words = dict.fromkeys(re.findall(r"\w[\w'-]*", prompt)[:MOST])
    ids = {word: tokenizer(word, add_special_tokens=False, verbose=False).input_ids for word in words}
    unknown = [word for word in words if tokenizer.unk_token_id in ids[word]]
    known = _read_words(tokenizer) if unknown else []
    return {word: difflib.get_close_matches(word.lower(), known, SHOWN, ALIKE) for word in unknown}


def notice(unknown: dict[str, list[str]]) -> str | None:
    """Return a notice about unknown words, or None if there are none."""
    if not unknown:
        return None
    quoted = ", ".join(f'"{word}"' for word in unknown)
    near = list(dict.fromkeys(word for words in unknown.values() for word in words))
    nearest = f" The nearest words that it knows: {', '.join(near)}." if near else ""
    return f"This model does not know {quoted} and ignores {'it' if len(unknown) == 1 else 'them'}.{nearest}"


def _read_words(tokenizer: Any) -> list[str]:
    """Return the tokenizer's whole words of two or more letters, sorted."""
    pieces = tokenizer.get_vocab()
    marked = any(piece.startswith(WORD_START) for piece in pieces)
    words = (p.removeprefix(WORD_START) for p in pieces if not marked or p.startswith(WORD_START))
    return sorted(word for word in words if len(word) > 1 and word.isalpha())
