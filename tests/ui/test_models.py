"""The models behind the page are opened once, when they are first needed."""

from threading import Thread

import pytest

from dsd.files.hub import LoadError
from dsd.ui.grids.handlers import DrawingGrids
from dsd.ui.models import Lazy
from tests import wheel_page
from tests.ui.drawing_grids import draw


def test_a_model_is_opened_once_however_many_ask_for_it():
    opened = []
    late = Lazy("slow", lambda: opened.append(1) or object())
    threads = [Thread(target=late) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert opened == [1] and late() is late() and late.is_open


def test_a_model_that_could_not_be_opened_is_tried_again():
    answers = iter([LoadError("no network"), "the model"])

    def opener():
        answer = next(answers)
        if isinstance(answer, LoadError):
            raise answer
        return answer

    late = Lazy("hub", opener)
    with pytest.raises(LoadError, match="no network"):
        late()
    assert not late.is_open and late() == "the model"


def test_the_models_are_opened_by_the_first_grid_and_not_before():
    wheel = wheel_page.wheel()
    work = DrawingGrids(wheel)
    assert not wheel.teacher.is_open and not wheel.judge.is_open
    first, second = draw(work), draw(work)
    assert "first time" in first[0]["status"] and "first time" not in second[0]["status"]
