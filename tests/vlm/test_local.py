"""A judge on this machine: any stock class, with or without torchvision, the same answer in any batch."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from dsd.vlm import local as vlm_local
from dsd.vlm.local import ImageProcessor, SeededDraws
from dsd.vlm.open import Request, open_vlm
from tests import tiny

IMAGES = [tiny.image(seed) for seed in range(4)]
ASKED = [
    Request("compare the critter", (IMAGES[0], IMAGES[1])),
    Request("describe", (IMAGES[2],)),
    Request("describe the same red critter with hat on a hill", (IMAGES[3],)),
    Request("what is it"),
    Request("is the hat red and round and striped"),
]


@pytest.fixture(scope="module", params=["llava", "qwen"])
def vlm(request, folders):
    return open_vlm(str(folders[request.param]), max_tokens=10, batch=3, temperature=2.0)


@pytest.fixture
def qwen(folders):
    return open_vlm(str(folders["qwen"]), max_tokens=10, batch=3)


# ---------------------------------------------------------------- answers


def test_a_batch_answers_as_one_at_a_time(vlm):
    alone = [vlm.ask(request.question, request.images) for request in ASKED]
    assert list(vlm.ask_many(ASKED)) == alone
    assert len(set(alone)) > 2


def test_every_image_and_their_order_count(vlm):
    pairs = [(IMAGES[a], IMAGES[b]) for a, b in ((0, 1), (1, 0), (0, 2), (3, 1))]
    assert len({vlm.ask("compare", pair) for pair in pairs}) > 1
    a, b = (vlm.model(**vlm.prepare([Request("compare", pair)])).logits[0, -1] for pair in pairs[:2])
    assert (a - b).abs().max() > 0.01


def test_requests_are_taken_a_batch_at_a_time(llava):
    taken = []
    answers = llava.ask_many(taken.append(i) or request for i, request in enumerate(ASKED))
    next(answers)
    assert taken == [0, 1, 2]
    assert len(list(answers)) == 4


def test_an_answer_has_so_many_words_at_most(folders):
    for most in (1, 4):
        vlm = open_vlm(str(folders["llava"]), max_tokens=most)
        assert max(len(vlm.ask(r.question, r.images).split()) for r in ASKED) == most


def test_questions_end_where_answers_begin(vlm):
    mask = vlm.prepare(ASKED[:3])["attention_mask"]
    assert mask[:, -1].all() and not mask.all()


def test_a_placeholder_in_a_question_is_only_text(vlm):
    def ids(question: str) -> list[int]:
        return vlm.prepare([Request(question, (IMAGES[0],))])["input_ids"][0].tolist()

    image = vlm.processor.image_token
    for mark in ("<s>", "</s>", "<pad>", image):
        assert ids(f"describe {mark} it") == ids("describe xx yy it")  # two words that it does not know
    assert ids("describe it").count(vlm.processor.image_token_id) == 4


# ---------------------------------------------------------------- which image is which

LABELS = ("Image", "1:", "2:")
EACH = (
    "{{% for message in messages %}}{}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{}{{% else %}}{}{{% endif %}}{{% endfor %}}{{% endfor %}}"
)
# In the order of the published ones.
IN_ORDER = {
    "Qwen2.5-VL": EACH.format(
        "<|im_start|>user\n", "<|vision_start|><|image_pad|><|vision_end|>", "{{ part.text }}"
    ),
    "SmolVLM": EACH.format("<|im_start|>User: ", "<image>", "{{ part.text }}"),
    "Gemma 3": EACH.format("<start_of_turn>user\n", "<start_of_image>", "{{ part.text | trim }}"),
}
OUT_OF_ORDER = {
    "LLaVA 1.5": "USER: {% for kind in ('image', 'text') %}{% for part in messages[0]['content'] | "
    "selectattr('type', 'equalto', kind) %}{{ '<image>\n' if kind == 'image' else part.text + ' ' }}"
    "{% endfor %}{% endfor %}ASSISTANT:",
    "images first": EACH.format(
        "",
        "<image>",
        "{% if loop.first %}{{ raise_exception('images first') }}{% endif %} {{ part.text }}",
    ),
}


def labeling(folder: Path, template: str = tiny.LLAVA_TEMPLATE):
    return open_vlm(str(tiny.vlm(folder / "vlm", words=LABELS, template=template)), max_tokens=4)


def asked_in_words(vlm, images: int) -> str:
    """Return a question as the model gets it."""
    messages = vlm._build_message(Request("compare", tuple(IMAGES[:images])))
    return vlm.processor.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("name", IN_ORDER)
def test_each_image_comes_after_its_number_where_the_template_keeps_the_order(name, tmp_path):
    vlm = labeling(tmp_path, IN_ORDER[name])
    assert re.search(r"Image 1:\s*<.+>\s*Image 2:\s*<.+>\s*compare", asked_in_words(vlm, 2))
    assert "Image" not in asked_in_words(vlm, 1)


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_numbers_that_would_be_apart_from_their_images_are_left_out(name, tmp_path):
    assert re.search(
        r"<image>\s*<image>\s*compare", asked_in_words(labeling(tmp_path, OUT_OF_ORDER[name]), 2)
    )


def test_numbers_reach_the_model_between_its_images(tmp_path):
    vlm = labeling(tmp_path)
    ids = vlm.prepare([Request("compare", tuple(IMAGES[:2]))])["input_ids"][0]
    image = ["<image>"] * 4
    words = vlm.processor.tokenizer.convert_ids_to_tokens(ids)
    assert words == ["Image", "1:", *image, "Image", "2:", *image, "compare", "answer:"]


def test_a_model_that_does_not_know_the_words_is_asked_as_it_was_taught(llava):
    assert asked_in_words(llava, 2).startswith("<image><image> compare")


# ---------------------------------------------------------------- draws


def test_a_seed_draws_the_same_answer_in_any_batch(vlm):
    requests = [Request(r.question, r.images, seed) for seed in (5, 6) for r in ASKED[1:4]]
    alone = [vlm.ask(r.question, r.images, seed=r.seed) for r in requests]
    assert list(vlm.ask_many(requests)) == alone
    assert list(vlm.ask_many(requests[::-1])) == alone[::-1]
    assert len(set(alone)) == 6


def test_draws_leave_their_greedy_neighbours_alone(vlm):
    greedy, drawn = ASKED[1], Request("describe", (IMAGES[0],), 3)
    first, _, last = vlm.ask_many([greedy, drawn, greedy])
    assert first == last == vlm.ask(greedy.question, greedy.images)


def test_the_temperature_acts_on_draws_only(folders):
    cold, warm = (open_vlm(str(folders["llava"]), max_tokens=10, temperature=t) for t in (1e-4, 2.0))
    for request in ASKED[:2]:
        greedy = cold.ask(request.question, request.images)
        assert greedy == warm.ask(request.question, request.images)
        assert greedy == cold.ask(request.question, request.images, seed=1)
    assert len({warm.ask("what", seed=seed) for seed in range(5)}) > 2


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_follow_the_softmax(temperature):
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = SeededDraws(list(range(4000)), temperature, torch.device("cpu"))
    chosen = draws(torch.zeros(4000, 1), logits.repeat(4000, 1)).argmax(1)
    share = chosen.bincount(minlength=4) / 4000
    assert torch.allclose(share, (logits / temperature).softmax(0), atol=0.03)


# ---------------------------------------------------------------- Qwen without torchvision


def test_qwen_counts_its_images_tokens(qwen):
    assert type(qwen.processor) is ImageProcessor
    inputs = qwen.prepare([ASKED[0], ASKED[1]])
    pad = qwen.processor.image_token_id
    each = inputs["image_grid_thw"].prod(1) // qwen.processor.image_processor.merge_size**2
    assert each.tolist() == [4, 4, 4]  # 32 pixels, patches of 8, four patches a token
    assert (inputs["input_ids"] == pad).sum(1).tolist() == [8, 4]
    assert torch.equal(inputs["mm_token_type_ids"], (inputs["input_ids"] == pad).long())


def test_qwen_sees_images_in_two_dimensions(qwen):
    inputs = qwen.prepare([ASKED[0]])
    seen = qwen.model(**inputs).logits[0, -1]
    qwen.model.model.rope_deltas = None
    flat = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    assert (seen - qwen.model(**flat).logits[0, -1]).abs().max() > 0.01


def test_qwen_forgets_the_last_images_when_there_are_none(folders, qwen):
    list(qwen.ask_many(ASKED[:3]))
    fresh = open_vlm(str(folders["qwen"]), max_tokens=10)
    assert qwen.ask("what is it") == fresh.ask("what is it")


def test_with_torchvision_the_stock_processor_is_taken(folders, monkeypatch):
    by_hand, asked = ImageProcessor.from_pretrained(folders["qwen"]), []
    monkeypatch.setattr(vlm_local, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda place, **_: asked.append(place) or by_hand)
    open_vlm(str(folders["qwen"]))
    assert asked == [str(folders["qwen"])]
