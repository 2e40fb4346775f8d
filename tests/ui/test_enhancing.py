"""Behind "Describe my image for me": who looks, what is suggested, what is sent where."""

from dsd.curation.captions import LONGEST
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.models import Lazy, Loaded
from dsd.vlm.base import VLMError
from tests import wheel_page
from tests.judging import FakeJudge


def enhancing(pipe, said: str = "a red round critter on the beach", **changed) -> Enhancing:
    describer = wheel_page.late(FakeJudge(lambda request: said), changed.pop("name", "pocket"))
    fields = {"describer": describer, "recipe": CRITTERS, **changed}
    return Enhancing(Loaded(pipe=pipe, name="tiny", **fields))


def asked(image: str | None, prompt: str | None) -> dict:
    return {"image": image, "prompt": prompt}


def remark(work: Enhancing, image: str | None, prompt: str) -> str:
    return work.describe(asked(image, prompt))["describe_remark"]


def test_the_subject_comes_before_the_visitors_own_words_and_nothing_is_used_yet(pipe, photo):
    work = enhancing(pipe)
    shown = work.describe(asked(photo, "in the forest with a hat"))
    assert shown["suggestion"].value == "a red round critter in the forest with a hat"
    assert shown["suggestion"].visible and shown["use_suggestion"].visible
    assert "Change it as you like" in shown["describe_remark"]
    (request,) = work.describer().requests
    assert request.question == CRITTERS.captions["caption"] and request.images[0].size == (70, 50)


def test_the_suggestion_fits_what_the_models_own_tokenizer_can_read(pipe, photo):
    suggestion = enhancing(pipe, said="wonderful " * 30).describe(asked(photo, "in the forest"))["suggestion"]
    length = len(pipe.tokenizer(suggestion.value, verbose=False).input_ids)
    assert LONGEST // 2 < length <= LONGEST and suggestion.value.endswith("in the forest")


def test_without_words_of_ones_own_it_is_the_description(pipe, photo):
    for nothing in ("", None):
        assert enhancing(pipe).describe(asked(photo, nothing))["suggestion"].value == "a red round critter"


def test_the_model_is_not_opened_before_somebody_asks(pipe, photo):
    work = enhancing(pipe)
    work.about()
    assert not work.describer.is_open
    work.describe(asked(photo, "in the forest"))
    assert work.describer.is_open


def test_what_is_missing_is_said(pipe, photo):
    assert "--judge" in enhancing(pipe, describer=None).about()
    gone = Lazy("pocket", lambda: 1 / 0, missing="the embedded judge is not in this copy")
    work = enhancing(pipe, describer=gone)
    assert "The embedded judge is not in this copy." in work.about()
    assert "not in this copy" in work.describe(asked(photo, "in the forest"))["describe_remark"]


def test_an_image_that_is_not_from_the_small_models_world_is_not_described(pipe, photo):
    work = enhancing(pipe, warn=lambda image: "Unlike its world.")
    shown = work.describe(asked(photo, "in the forest"))
    assert "suggestion" not in shown and "describe the subject yourself" in shown["describe_remark"]
    assert not work.describer().requests
    assert "suggestion" in enhancing(pipe, warn=lambda image: None).describe(asked(photo, "in the forest"))
    large = enhancing(pipe, warn=lambda image: "Unlike its world.", recipe=IDENTITY)
    assert "suggestion" in large.describe(asked(photo, "in the forest"))


def test_it_says_where_the_image_goes(pipe):
    assert "nothing is sent anywhere" in enhancing(pipe).about()
    assert "nothing is sent anywhere" in enhancing(pipe, name="/home/me/judge").about()
    assert "/home" not in enhancing(pipe, name="/home/me/judge").about()
    told = enhancing(pipe, name="http://me:secret@example.org/v1").about()
    assert "example.org" in told and "secret" not in told and "nothing is sent" not in told


def test_mistakes_and_a_silent_model_are_answered_by_a_sentence(pipe, photo, tmp_path):
    assert "There is no image yet" in remark(enhancing(pipe), None, "a hat")
    (tmp_path / "notes.png").write_text("Dear diary")
    assert "notes.png" in remark(enhancing(pipe), str(tmp_path / "notes.png"), "a hat")
    assert "nothing to say" in remark(enhancing(pipe, said=""), photo, "")

    def refuse(request):
        raise VLMError("no answer <b>at all</b>")

    silent = wheel_page.late(FakeJudge(refuse))
    text = remark(enhancing(pipe, describer=silent), photo, "a hat")
    assert "No answer &lt;b&gt;" in text and 'role="alert"' in text
