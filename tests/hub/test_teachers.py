"""`train.grids` with every family of teachers, by preset name, hub id and folder."""

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image, ImageChops

from dsd.files import jsonl
from dsd.grids.prompts import Prompt
from dsd.grids.teacher import Teacher, load_teacher
from dsd.model.checkpoint import LoadError
from dsd.model.presets import PRESETS, TEACHERS
from tests.hub import shelf
from tests.hub.running import Ended, run, succeed

FAMILIES = {"flux2-klein": shelf.KLEIN, "qwen-image": shelf.QWEN_IMAGE, "z-image": shelf.Z_IMAGE}
QUICK = ("--panel", 64, "--steps", 2, "--device", "cpu")


def prompt(seed: int = 0, words: str = "a red fox", **other) -> Prompt:
    fields = {
        "id": f"{seed:06}",
        "rows": 1,
        "columns": 2,
        "recipe": "identity",
        "subject": "fox",
        "places": [],
    }
    return Prompt(prompt=words, seed=seed, **fields | other)


def draw(folder, *flags) -> tuple[Ended, jsonl.Row]:
    jsonl.write_rows(folder / "prompts.jsonl", [prompt(1).to_json()])
    ended = succeed("train.grids", folder, *flags)
    (row,) = jsonl.read(folder / "grids" / "grids.jsonl")
    return ended, row


@pytest.mark.parametrize(("name", "source"), FAMILIES.items())
def test_the_command_draws_a_grid_and_records_the_license(hub, tmp_path, name, source):
    _, row = draw(tmp_path / "run", "--model", name, *QUICK)
    assert Image.open(tmp_path / "run" / "grids" / row["file"]).size == (128, 64)
    own = TEACHERS[name].drawing_grids["guidance"]
    recorded = (row["generator"], row["license"], row["steps"], row["guidance"], row["panel"])
    assert recorded == (name, "Apache-2.0", 2, own, 64)
    _, by_id = draw(tmp_path / "by-id", "--model", source, *QUICK)
    names = {"generator", "license", "boxes"}
    assert (by_id["generator"], by_id["license"]) == (source, "Apache-2.0")
    assert {k: v for k, v in by_id.items() if k not in names} == {
        k: v for k, v in row.items() if k not in names
    }


def test_noise_is_shared_on_flux_alone(hub):
    with pytest.raises(LoadError, match="z-image is a ZImagePipeline, and shared noise is made for a Flux"):
        load_teacher("z-image", device="cpu", shared_noise=0.5)


def test_panels_are_drawn_again_by_families_that_can_draw_from_an_image(hub):
    grid = prompt(1, places=["on a beach", "in the snow"])
    boxes = [(0, 0, 64, 64), (64, 0, 128, 64)]
    for name in [*FAMILIES, "flux-dev"]:
        if name.startswith("flux2"):
            with pytest.raises(LoadError, match=f"{name} is a Flux2.*, which cannot draw a panel again"):
                load_teacher(name, device="cpu", refine=0.5)
            continue
        teacher = load_teacher(name, device="cpu", refine=0.5, steps=2, panel=64)
        (image,) = teacher.draw([grid])
        (refined,) = teacher.refine([image], [grid], [boxes])
        assert refined.size == image.size and refined != image, name


def test_turbo_has_settings_of_its_own_by_name_and_by_hub_id(hub):
    for name in ("z-image-turbo", shelf.Z_TURBO):
        settings = load_teacher(name, device="cpu").settings
        assert (settings.steps, settings.guidance, settings.panel) == (8, 0.0, 512)


def test_a_model_made_from_another_keeps_its_settings_and_names_its_own_license(hub, tmp_path):
    tuned = shelf.repository(shelf.Z_IMAGE).copy()
    tuned.name = "someone/z-image-tuned"
    tuned.files["README.md"] = b"---\nlicense: other\nlicense_name: some-non-commercial-license\n---\n"
    hub.repositories["models", tuned.name] = tuned
    _, row = draw(tmp_path, "--model", tuned.name, "--panel", 64, "--steps", 1)
    assert row["license"] == "some-non-commercial-license" and row["guidance"] == 4.0


def test_a_run_keeps_its_panel_size(hub, tmp_path):
    draw(tmp_path, "--model", "z-image", *QUICK)
    ended = run("train.grids", tmp_path, "--model", "z-image", "--steps", 2, "--panel", 128)
    assert ended.code == 2 and "panel was 64, now 128" in ended.message


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(hub, request) -> Teacher:
    options = {"steps": 2, "panel": 64, "device": "cpu", "dtype": torch.float32}
    return load_teacher(request.param, **options)


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference in levels of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_a_grid_has_its_seed_and_does_not_depend_on_those_beside_it(teacher):
    rows = [prompt(1), prompt(2, "the blue dog in the snow"), prompt(3, "a red fox")]
    together, alone = teacher.draw(rows), [teacher.draw([row])[0] for row in rows]
    assert all(apart(one, other) <= 2 for one, other in zip(together, alone, strict=True))
    assert apart(together[0], together[2]) > 5


def test_prompt_and_guidance_act(teacher):
    one, other = teacher.draw([prompt(1)])[0], teacher.draw([prompt(1, "the same blue dog, four times")])[0]
    assert apart(one, other) > 0
    if not teacher.pipe.config.get("is_distilled"):
        plain = load_teacher(teacher.name, steps=2, panel=64, guidance=0.0, device="cpu", dtype=torch.float32)
        assert apart(one, plain.draw([prompt(1)])[0]) > 0


def test_a_prompt_as_long_as_the_model_reads_is_read_to_its_end(teacher):
    """With the pipeline's chat template around it, the longest accepted prompt is not cut."""
    fits, longer = ("a" * (teacher.settings.tokens + more) for more in (0, 1))
    assert teacher.refuse(prompt(1, fits)) is None and "prompt too long" in teacher.refuse(prompt(1, longer))
    one, other = (read_text(teacher, fits[:-1] + end) for end in "ab")
    assert one.shape == other.shape and not torch.equal(one, other)


def read_text(teacher: Teacher, words: str) -> torch.Tensor:
    """Return the text embeddings that the transformer sees."""
    seen = []

    def keep(module, given, named):
        seen.append(
            named["encoder_hidden_states"] if named.get("encoder_hidden_states") is not None else given[2][0]
        )

    handle = teacher.pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    teacher.draw([prompt(1, words)])
    handle.remove()
    return seen[0]


def test_steps_are_reported_without_previews(teacher):
    *steps, drawn = teacher.stream([prompt(1)])
    assert [step.index for step in steps] == [0, 1] and drawn == teacher.draw([prompt(1)])
    assert steps[0].preview() == []


def test_no_student_can_be_one_of_them(hub):
    assert not FAMILIES.keys() & PRESETS.keys()


def test_a_pipeline_that_cannot_draw_grids_is_refused_in_a_sentence(tmp_path, monkeypatch):
    class Plain:
        def __call__(self, prompt): ...

    monkeypatch.setattr(AutoPipelineForText2Image, "from_pretrained", lambda *_, **__: Plain())
    with pytest.raises(LoadError, match="is a Plain, which has no generator: name a model of another family"):
        load_teacher(str(tmp_path), like="z-image", device="cpu")
