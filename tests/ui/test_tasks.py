"""Tasks behind the Create tab: what a model was trained for, its words and examples, links and the API."""

import json
from urllib.parse import parse_qsl

import pytest

from dsd import load_pipeline
from dsd.files.errors import LoadError
from dsd.grids.recipes import TASKS, WORLD_TASKS
from dsd.model.presets import IDENTITY, LIGHT, POCKET, PRESETS, SOMEWHERE
from dsd.pocket.phrases import VOCABULARY
from dsd.ui import page
from dsd.ui.generate.form import Form
from dsd.ui.generate.tasks import Choice
from dsd.ui.models import Loaded, describe_model
from tests import tiny
from tests.forms import form

ROWS = [
    {"image": "a.png", "prompt": "in the snow"},
    {"image": "b.png", "prompt": "at sea", "task": IDENTITY},
    {"image": "c.png", "prompt": "on the left", "seed": 3, "task": "edit"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples.json").write_text(json.dumps(ROWS))
    return tmp_path


def able(pipe, *trained: str, name: str = "pocket") -> Loaded:
    pipe.trained_tasks = trained
    return describe_model(pipe, name, weights=None, describer=None)


@pytest.fixture
def pipe():
    return tiny.pipeline(guidance_embeds=False)


def components(loaded, folder) -> dict[str, dict]:
    blocks = page.build(loaded, folder)
    found = {one["props"].get("elem_id"): one["props"] for one in blocks.config["components"]}
    blocks.close()
    return found


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_family_has_words_for_every_task_of_the_recipes(preset):
    assert tuple(task.name for task in preset.tasks) == (WORLD_TASKS if preset.knows_world else TASKS)
    for task in preset.tasks:
        assert task.title and task.question and task.placeholder and task.phrases


def test_pocket_knows_the_words_of_its_tasks():
    for task in POCKET.tasks:
        phrases = [phrase for group in task.phrases.values() for phrase in group]
        text = " ".join([task.placeholder, *phrases, *task.examples])
        assert {*text.split()} <= {*VOCABULARY}, task.name


def test_one_task_shows_no_choice_and_the_page_is_as_it_was(pipe, folder):
    shown = components(able(pipe, IDENTITY), folder)
    assert "task" not in shown and shown["prompt"]["label"] == "Where should it be?"
    assert len(shown["examples"]["value"]) == 2 and "on the beach" in shown["chips"]["value"]


def test_weights_of_another_task_alone_get_its_words_without_a_choice(pipe, folder):
    shown = components(able(pipe, "relight"), folder)
    assert "task" not in shown and shown["prompt"]["label"] == LIGHT.question
    assert "at sunset" in shown["chips"]["value"] and "on the beach" not in shown["chips"]["value"]


def test_several_tasks_are_offered_in_the_familys_order_also_of_one_without_words(pipe, folder):
    shown = components(able(pipe, "pose", "edit", IDENTITY), folder)
    choices = [(title, name) for title, name in shown["task"]["choices"]]
    assert choices == [("Somewhere new", IDENTITY), ("Change something", "edit"), ("Pose", "pose")]
    assert shown["task"]["value"] == IDENTITY


def test_a_trained_folder_is_offered_what_its_files_name(pipe, tmp_path):
    pipe.trained_tasks = (IDENTITY, "relight")
    pipe.save_pretrained(tmp_path / "student")
    opened = load_pipeline(tmp_path / "student", device="cpu")
    loaded = describe_model(opened, str(tmp_path / "student"), weights=None, describer=None)
    assert [task.title for task in loaded.tasks] == ["Somewhere new", "Another light"]


def test_tasks_that_are_no_names_end_in_a_sentence_that_says_where(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    facts = json.loads(index.read_text())
    for named in ("relight", 5, {"relight": 1}, [3], [" "]):
        index.write_text(json.dumps(facts | {"_tasks": named}))
        with pytest.raises(LoadError, match=f"{tmp_path} must name its tasks as a list of words, got"):
            load_pipeline(tmp_path, device="cpu")


def test_a_task_brings_its_own_examples_or_the_characters_with_its_prompts(pipe, folder):
    choice = Choice(able(pipe, *TASKS), folder)
    assert choice.rows["edit"] == ROWS[2:]
    prompts = POCKET.tasks[1].examples
    assert choice.rows["relight"] == [
        {"image": name, "prompt": prompt} for name, prompt in zip(("a.png", "b.png"), prompts, strict=False)
    ]
    for task in TASKS:
        for (path, caption), row in zip(choice.pictures(choice.tasks[task]), choice.rows[task], strict=True):
            assert choice.find({"image": {"path": path}, "caption": caption}) == row
    assert choice.find({"image": {"path": "/etc/passwd"}, "caption": "at sea"}) is None
    bare = Choice(bare_loaded(pipe), folder)
    shown = bare.choose({"task": "relight"})
    assert not (shown["examples"].visible or shown["heading"].visible or shown["chips"].visible)
    assert "value" not in shown["prompt"].constructor_args, "what was typed stays"
    assert bare.choose({"task": "forged"})["prompt"].label == SOMEWHERE.question
    assert "examples" not in Choice(bare_loaded(pipe), folder / "none").choose({"task": "relight"})


def bare_loaded(pipe) -> Loaded:
    return Loaded(pipe=pipe, name="tiny", tasks=(SOMEWHERE, LIGHT))


def test_links_carry_another_task_than_the_first_and_old_links_work(pipe):
    several, alone = Form(able(pipe, *TASKS)), Form(able(pipe, IDENTITY))
    told = several.link(form(address="x:/", task="relight"))
    assert dict(parse_qsl(told.partition("?")[2]))["task"] == "relight"
    assert several.read_link({"task": "edit"})["task"] == "edit"
    plain = several.link(form(address="x:/", task=IDENTITY))
    assert plain == alone.link(form(address="x:/", task=IDENTITY)) and "task" not in plain
    assert "task" not in several.read_link({"prompt": "a hat"})


def test_a_link_to_a_task_that_the_page_lacks_brings_its_other_settings(pipe):
    several, alone = Form(able(pipe, *TASKS)), Form(able(pipe, IDENTITY))
    link = several.link(form(address="x:/", task="relight", steps=5, seed=8))
    read = alone.read_link(dict(parse_qsl(link.partition("?")[2])))
    assert (read["prompt"], read["steps"], read["seed"]) == (form()["prompt"], 5, 8) and "task" not in read
    assert "settings of this link are loaded" in read["link_notice"].value
    assert "the choice &quot;relight&quot;, which this page does not have." in read["link_notice"].value
    for page_ in (several, alone):
        told = page_.read_link({"task": "<b>", "prompt": "a hat"})
        assert told["prompt"] == "a hat" and "choice &quot;&lt;b&gt;&quot;" in told["link_notice"].value
        (alone_notice,) = page_.read_link({"task": "<b>"}).values()
        assert "settings" not in alone_notice.value and "does not have" in alone_notice.value


def test_the_api_takes_no_task(pipe, folder):
    def parameters(loaded) -> list[str]:
        blocks = page.build(loaded, folder)
        names = blocks.get_api_info()["named_endpoints"]["/generate"]["parameters"]
        blocks.close()
        return [one["parameter_name"] for one in names]

    assert parameters(able(pipe, *TASKS)) == parameters(able(pipe, IDENTITY))
