"""A judge on this machine: any stock class, with or without torchvision, the same answer in any batch."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from dsd.model import presets
from dsd.vlm import local as vlm_local
from dsd.vlm.local import ImageProcessor, SeededDraws
from dsd.vlm.open import LoadError, Request, VLMError, open_vlm
from tests import tiny

IMAGES = [tiny.image(seed) for seed in range(4)]
ASKED = [
    Request("compare the critter", (IMAGES[0], IMAGES[1])),
    Request("describe", (IMAGES[2],)),
    Request("describe the same red critter with hat on a hill", (IMAGES[3],)),
    Request("what is it"),
    Request("is the hat red and round and striped"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("vlms")
    return {"llava": tiny.vlm(place / "llava"), "qwen": tiny.qwen(place / "qwen")}


@pytest.fixture(scope="module", params=["llava", "qwen"])
def vlm(request, folders):
    return open_vlm(str(folders[request.param]), max_tokens=10, batch=3, temperature=2.0)


@pytest.fixture
def llava(folders):
    return open_vlm(str(folders["llava"]), max_tokens=10, batch=3)


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


# ---------------------------------------------------------------- opening


def test_a_model_goes_by_the_name_of_its_folder(folders):
    assert open_vlm(str(folders["llava"])).name == "llava"


def test_pocket_is_opened_in_full_precision(folders, tmp_path, monkeypatch):
    half = tmp_path / "judge"
    LlavaForConditionalGeneration.from_pretrained(folders["llava"]).half().save_pretrained(half)
    AutoProcessor.from_pretrained(folders["llava"]).save_pretrained(half)
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(half)))
    vlm = open_vlm("pocket", device="cpu", max_tokens=4)
    assert (vlm.name, vlm.batch, vlm.model.dtype) == ("pocket", 32, torch.float32)
    assert vlm.ask("describe", [IMAGES[0]])


def test_pocket_says_when_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(tmp_path / "judge")))
    with pytest.raises(LoadError, match="has no judge in .*judge: run python -m train.pocket.judge"):
        open_vlm("pocket")


def test_a_model_that_is_nowhere_is_named():
    with pytest.raises(LoadError, match="not found: no/such/folder"):
        open_vlm("no/such/folder")


def test_a_model_that_does_not_see_is_refused(tmp_path):
    tiny.text_encoders(*tiny.tokenizers())[1].save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="is a t5, not a vision-language model"):
        open_vlm(str(tmp_path))


def test_a_gated_model_says_which_license_to_accept(monkeypatch):
    def gated(*_, **__):
        raise GatedRepoError(
            "gated", response=httpx2.Response(403, request=httpx2.Request("GET", "https://x"))
        )

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    with pytest.raises(LoadError, match="accept the license at https://huggingface.co/owner/model"):
        open_vlm("owner/model")


def copied(source: Path, target: Path, *, without: str = "") -> Path:
    target.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_model_that_lacks_weights_is_refused(folders, tmp_path):
    folder = copied(folders["llava"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "projector" in name)
    del weights[dropped]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="lacks 1 of its weights, .*projector"):
        open_vlm(str(folder))


def test_broken_weights_are_refused(folders, tmp_path):
    folder = copied(folders["llava"], tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(LoadError, match=r"model.safetensors is damaged.*save it again"):
        open_vlm(str(folder))


@pytest.mark.parametrize(
    ("without", "says"),
    [("config.json", "cannot open"), ("model.safetensors", "cannot open"), ("tokenizer.json", "cannot open"),
     ("chat_template.jinja", "has no chat template")],
)  # fmt: skip
def test_an_incomplete_folder_is_refused(without, says, folders, tmp_path):
    with pytest.raises(LoadError, match=says):
        open_vlm(str(copied(folders["llava"], tmp_path / "m", without=without)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(folders):
    with pytest.raises(LoadError, match="device 'cuda' cannot be used"):
        open_vlm(str(folders["llava"]), device="cuda")


@pytest.mark.parametrize(("option", "value"), [("batch", 0), ("max_tokens", 0), ("temperature", 0.0)])
def test_options_that_cannot_be_followed_are_refused(option, value, folders):
    with pytest.raises(VLMError, match=f"{option} must .*, got {value}"):
        open_vlm(str(folders["llava"]), **{option: value})


def test_an_option_of_a_server_is_refused():
    with pytest.raises(LoadError, match="'pocket' has no option budget, in_flight; it has .*batch"):
        open_vlm("pocket", in_flight=3, budget=9, batch=None)


def test_the_models_own_settings_are_kept_but_for_sampling(llava):
    model = copy.copy(llava.model)
    model.generation_config = copy.deepcopy(llava.model.generation_config)
    model.generation_config.update(do_sample=True, temperature=0.3, top_k=5, repetition_penalty=1.3)
    options = vlm_local.LocalOptions(max_tokens=7)
    plan = vlm_local.LocalVLM("x", model, llava.processor, options)._generation
    assert (plan.do_sample, plan.temperature, plan.top_k) == (False, None, None)
    assert (plan.repetition_penalty, plan.max_new_tokens) == (1.3, 7)
