"""The figures of the card: grids are those that the wheel draws, with their panels drawn again."""

from dataclasses import replace

from dsd.grids import grids
from dsd.pocket.scorer import Scorer
from tests import wheel_page
from train.pocket import measure


def test_grids_are_measured_as_the_wheel_draws_them(tmp_path, monkeypatch):
    teacher = wheel_page.teacher()
    monkeypatch.setattr(teacher.pipe.tokenizer_2, "model_max_length", 400)
    settings = replace(teacher.settings, refine=0.5, equal_parts=True)
    read, scorer = [], Scorer()
    models = measure.Models(teacher.pipe, scorer, settings.panel, guidance=1.0)
    monkeypatch.setattr(scorer, "read", lambda images: read.extend(images) or Scorer.read(scorer, images))
    drawing = replace(teacher, settings=settings)
    figures = measure.measure_grids(models, 1, drawing, tmp_path)
    prompt = measure._grid_prompt(*models.fresh(0, held_out=False, contexts=4), measure.SEED)
    (grid,) = drawing.draw([prompt])
    (again,) = drawing.refine([grid], [prompt], [drawing.find_panels(grid, prompt)])
    expected = [panel.tobytes() for panel in grids.panels(again, 2, 2)]
    assert [panel.tobytes() for panel in read] == expected
    assert expected != [panel.tobytes() for panel in grids.panels(grid, 2, 2)]
    assert 0 <= figures["pairs_that_agree"] <= 1 and (tmp_path / "teacher_grids.webp").exists()
