"""Words that a model does not know: found by its own tokenizer, told with the nearest known ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dsd.model import known_words
from dsd.model.known_words import unknown_words
from dsd.pocket.phrases import VOCABULARY, phrase
from dsd.pocket.world import sample_context, sample_critter
from train.pocket import text

POCKET = SimpleNamespace(tokenizer_2=text.build_t5_tokenizer())


def pieces() -> SimpleNamespace:
    """A model whose tokenizer cuts words into pieces, as FLUX's does."""
    vocab = [("<unk>", 0.0), *((f"\u2581{word}", -1.0) for word in ("hat", "beach", "red")), ("s", -2.0)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return SimpleNamespace(tokenizer_2=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red round critter on the beach", {}),
        ("Wearing a RED hat, at the seaside!", {}),
        ("ball-shaped monster", {}),
        ("on the beech", {"beech": ["beach"]}),
        ("wearing sunglasses", {"sunglasses": []}),
        ("", {}),
    ],
)
def test_pockets_unknown_words_come_with_the_nearest_known_ones(prompt, expected):
    found = unknown_words(POCKET, prompt)
    assert {word: near[:1] for word, near in found.items()} == expected


def test_every_word_that_is_taught_is_known_whatever_its_case():
    assert unknown_words(POCKET, " ".join(VOCABULARY).upper()) == {}


def test_a_misspelled_word_of_a_phrase_is_found_and_its_right_spelling_mostly_offered():
    rng, hits, found = np.random.default_rng(3), 0, 0
    for _ in range(600):
        said = phrase(sample_critter(rng), sample_context(rng), rng)
        for near in unknown_words(POCKET, said).values():
            found, hits = found + 1, hits + bool(near)
    assert found > 20 and hits / found > 0.8


def test_a_tokenizer_of_pieces_knows_what_it_can_put_together():
    assert unknown_words(pieces(), "red hats") == {}
    assert unknown_words(pieces(), "red \u6d77") == {"\u6d77": []}
    assert unknown_words(pieces(), "bea\u00fcch") == {"bea\u00fcch": ["beach"]}


def test_a_model_without_a_second_tokenizer_knows_everything():
    assert unknown_words(SimpleNamespace(tokenizer_2=None), "anything") == {}


def test_the_notice_names_the_words_and_is_silent_without_any():
    assert known_words.notice({}) is None
    said = known_words.notice({"beech": ["beach"], "xyz": []})
    assert '"beech", "xyz" and ignores them' in said and said.endswith("knows: beach.")
