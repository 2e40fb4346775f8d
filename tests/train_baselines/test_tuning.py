"""Tuning for one subject changes what it may for as long as it may; SDEdit starts from the reference."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from dsd.evaluation import validation
from dsd.evaluation.critters import validation_set
from dsd.model import canvas, latents
from dsd.model.checkpoint import weights_hash
from dsd.training.cache import image_hash
from tests import tiny
from train.baselines import dreambooth, per_subject, textual_inversion
from train.baselines.per_subject import Clock, Subject, Tuning
from train.baselines.sdedit import by_sdedit

SUBJECT = Subject("red hat", "on the beach")
METHODS = [dreambooth, textual_inversion]
RATES = {dreambooth: 1e-2, textual_inversion: 0.3}


@pytest.fixture
def pipe():
    parts = tiny.components() | {"transformer": tiny.plain_transformer()}
    pipe = FluxPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def hashes(pipe) -> dict[str, str]:
    return {name: weights_hash(getattr(pipe, name)) for name in ("transformer", "text_encoder", "vae")}


def tuning(method, **changed) -> Tuning:
    return Tuning(**{"rate": RATES[method], "steps": 12, "batch": 2, "rank": 2, "guidance": 3.5} | changed)


@pytest.mark.parametrize("method", METHODS)
def test_tuning_lowers_the_loss_of_its_image(pipe, method, monkeypatch):
    fit, losses = method.fit, []
    monkeypatch.setattr(method, "fit", lambda *given: losses.extend(fit(*given)))
    with method.tuned(pipe, tiny.image(), SUBJECT, tuning(method, steps=20)):
        pass
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_dreambooth_leaves_the_teacher_as_it_was(pipe):
    before, counted = hashes(pipe), dreambooth.trained_size(pipe, tuning(dreambooth))
    with dreambooth.tuned(pipe, tiny.image(), SUBJECT, tuning(dreambooth)) as words:
        assert words == "red hat" and hashes(pipe) != before
        size = sum(w.numel() for w in pipe.transformer.parameters() if w.requires_grad)
        assert size == counted > 0
    assert hashes(pipe) == before


def test_dreambooth_begins_as_the_teacher(pipe):
    def draw() -> list:
        return validation.by_teacher(pipe, steps=2, side=32)(tiny.PROMPTS[:1], [], [0])

    before = draw()
    with dreambooth.tuned(pipe, tiny.image(), SUBJECT, tuning(dreambooth, steps=0)):
        assert np.array_equal(draw()[0], before[0])


def test_inversion_changes_one_word_of_each_encoder(pipe):
    tables = [pipe.text_encoder.get_input_embeddings(), pipe.text_encoder_2.get_input_embeddings()]
    before, transformer = [table.weight.detach().clone() for table in tables], weights_hash(pipe.transformer)
    with textual_inversion.tuned(pipe, tiny.image(), SUBJECT, tuning(textual_inversion)) as word:
        assert word in pipe.tokenizer.get_vocab() and word in pipe.tokenizer_2.get_vocab()
    for part, name, old in zip((pipe.text_encoder, pipe.text_encoder_2), ("", "_2"), before, strict=True):
        new, tokenizer = part.get_input_embeddings().weight, getattr(pipe, f"tokenizer{name}")
        row = tokenizer.convert_tokens_to_ids(word)
        assert torch.equal(new[: len(old)], old) and row == len(old) == len(new) - 1
        start = old[tokenizer("red hat", add_special_tokens=False).input_ids].mean(0)
        assert not torch.allclose(new[row], start, atol=1e-2)
    assert weights_hash(pipe.transformer) == transformer


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_embedded_guidance_is_tuned_too(method):
    parts = tiny.components() | {"transformer": tiny.plain_transformer(guidance_embeds=False)}
    with method.tuned(FluxPipeline(**parts), tiny.image(), SUBJECT, tuning(method, steps=1)) as words:
        assert words


@pytest.mark.parametrize("method", METHODS)
def test_subjects_do_not_see_each_other(pipe, method, tmp_path):
    cases = validation_set(0, 2, 2, size=32)
    clock = Clock(tmp_path / "tuning.jsonl", "key")
    plain = validation.by_teacher(pipe, steps=2, side=32)
    subjects = per_subject.find_subjects(cases)
    tuned = per_subject.by_tuning(method.tuned, pipe, plain, subjects, tuning(method, steps=3), clock)
    draw = per_subject.one_by_one(tuned)
    columns = [[getattr(case, name) for case in cases] for name in ("prompt", "reference", "seed")]
    images = draw(*columns)
    assert len(clock.file.read_text().splitlines()) == 2 and clock.mean > 0
    alone = draw(*(column[2:] for column in columns))
    for one, other in zip(images[2:], alone, strict=True):
        assert np.array_equal(one, other)
    untuned = plain([f"a {subjects[image_hash(cases[0].reference)].words} {cases[0].prompt}"], [], [0])
    assert not np.array_equal(images[0], untuned[0])


@torch.no_grad()
def test_sdedit_keeps_more_of_the_reference_the_less_it_noises(pipe):
    references = [tiny.image(1), tiny.image(2)]
    pixels = latents.decode(pipe.vae, latents.encode(pipe.vae, canvas.to_tensor(references)))
    kept = pipe.image_processor.postprocess(pixels, output_type="pil")
    drawn = [by_sdedit(pipe, strength=s, steps=10)(tiny.PROMPTS, references, [0, 1]) for s in (0.1, 1.0)]
    assert distance(drawn[0], kept) < 0.9 * distance(drawn[1], kept)


def distance(ones, others) -> float:
    pairs = zip(ones, others, strict=True)
    return float(np.mean([np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]))
