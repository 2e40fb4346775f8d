"""The command line: images and their seeds, the same image again, and a mistake in one line."""

import pytest
from PIL import Image

from dsd.files.errors import escape_output
from dsd.generate import command, flags, provenance
from tests import tiny
from tests.chat.server import Chat, serving


@pytest.fixture
def run(pipe, photo, tmp_path, monkeypatch, capsys):
    """Run the command in `tmp_path` on the tiny pipeline; returns (exit code, output, errors)."""
    monkeypatch.setattr("dsd.model.checkpoint.load_pipeline", lambda *_, **__: pipe)
    monkeypatch.chdir(tmp_path)
    photo.save("photo.png")

    def run(*argv: str) -> tuple[int, str, str]:
        escape_output()  # as the entry point does
        try:
            code = command.run(flags.parse(list(argv)))
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_command_writes_an_image_and_its_seed(run, tmp_path):
    code, out, _ = run("photo.png", "a red hat", "-o", "out.png", "--steps", "2", "--seed", "5")
    assert code == 0 and "seed 5" in out
    assert provenance.read_settings(tmp_path / "out.png")["steps"] == 2


@pytest.mark.parametrize("seed", [(), ("--seed", "-1")], ids=["none", "-1"])
def test_without_a_seed_it_takes_one_and_says_which(run, tmp_path, seed):
    code, out, _ = run("photo.png", "a red hat", "-o", "out.png", "--steps", "1", *seed)
    assert code == 0 and f"seed {provenance.read_settings(tmp_path / 'out.png')['seed']}\n" in out


def test_four_images_get_four_names(run, tmp_path):
    code, _, _ = run("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--count", "4", "--seed", "1")
    assert code == 0 and sorted(path.name for path in tmp_path.glob("out*")) == [
        f"out-{i}.png" for i in (1, 2, 3, 4)
    ]
    assert provenance.read_settings(tmp_path / "out-3.png")["seed"] == 3


def test_from_makes_the_same_image_again(run, tmp_path):
    run("photo.png", "a hat", "-o", "out.png", "--steps", "3", "--seed", "5", "--width", "48", "--fit", "pad")
    (tmp_path / "photo.png").unlink()  # the reference travels in the image
    code, out, err = run("--from", "out.png")
    assert code == 0 and "identical to the original" in out and "warning" not in err
    with Image.open(tmp_path / "out.png") as one, Image.open(tmp_path / "out-again.png") as other:
        assert tiny.difference(one, other) == 0


def test_from_warns_when_the_model_is_another(run, monkeypatch):
    run("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--seed", "5")
    monkeypatch.setattr("dsd.model.checkpoint.model_hash", lambda _: "another")
    code, _, err = run("--from", "out.png", "-o", "b.png")
    assert code == 0 and "another model made the original image" in err


def test_describe_draws_with_the_looks_of_the_subject_and_says_so(run, tmp_path):
    with serving(chat := Chat(models=("one", "two"))) as address:
        flags = ["--describe", "--judge", address, "--judge-model", "two"]
        code, out, _ = run("photo.png", "a red hat", "-o", "out.png", "--steps", "1", *flags)
    prompt = provenance.read_settings(tmp_path / "out.png")["prompt"]
    assert code == 0 and f"prompt: {prompt}\n" in out and " robot " in prompt
    assert chat.seen[0]["model"] == "two" and '"a red hat"' in str(chat.seen[0]).replace("\\", "")


def test_describe_stops_before_drawing_where_the_judge_has_no_prompt(run, tmp_path):
    with serving(chat := Chat(style="refusal")) as address:
        code, _, err = run("photo.png", "a hat", "-o", "out.png", "--describe", "--judge", address)
        assert code == 2 and "describe the subject yourself" in err and not list(tmp_path.glob("*out.png*"))
        asked = len(chat.seen)
        run("photo.png", "a hat", "-o", "out.png", "--describe", "--judge", address)
    assert len(chat.seen) == 2 * asked  # what cannot be used is asked for anew


@pytest.mark.usefixtures("interrupted")
def test_a_description_that_was_paid_for_is_not_asked_for_again(run, tmp_path):
    asked = ["photo.png", "a hat", "-o", "out.png", "--steps", "2", "--seed", "5", "--describe", "--judge"]
    with serving(chat := Chat()) as address:
        assert run(*asked, address)[0] == 130 and len(chat.seen) == 1  # in the second step
        code, out, _ = run(*asked, address)
    assert code == 0 and "prompt:" in out and len(chat.seen) == 1
    assert [path.name for path in tmp_path.glob("*out.png*")] == ["out.png"]


def test_the_embedded_judge_describes_no_image_of_another_world(run, tmp_path):
    code, out, err = run("photo.png", "a hat", "-o", "out.png", "--describe")
    assert code == 2 and "unlike" in err and "prompt:" not in out and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("forged", "flag", "named"),
    [
        ({"model": "flux-dev"}, ("--model", "flux-dev"), "--model flux-dev"),  # it would be downloaded
        ({"model": "stranger/model"}, ("--model", "mine"), "--model stranger/model"),
        ({"weights": "stranger/weights"}, ("--weights", "mine"), "--weights stranger/weights"),
        ({"lora": ["stranger/a:0.5", "b"]}, ("--lora", "mine"), "--lora stranger/a:0.5 --lora b"),
        ({"model": {"a": 1}}, ("--model", "mine"), "--model '{"),
        ({"speed": {"attention": "flash_hub"}}, ("--attention", "none"), "--attention flash_hub"),
        ({"weights": "x\x1b[31m\u202e"}, ("--weights", "mine"), "'x\\x1b[31m\\u202e'"),
    ],
)
def test_from_opens_nothing_that_only_a_strangers_file_names(run, forged, flag, named):
    run("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--seed", "5")
    settings, frame = provenance.read_settings("out.png"), provenance.read_reference("out.png")
    provenance.save("forged.png", Image.open("out.png"), settings | forged, frame)
    code, _, err = run("--from", "forged.png")
    assert code == 2 and named in err and "if you trust it" in err and err[:-1].isprintable()
    assert run("--from", "forged.png", *flag)[0] == 0


def test_several_images_of_one_subject_are_drawn_from_and_again(run, pipe, monkeypatch, tmp_path):
    tiny.image(1).save("other.png")
    words = ("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--seed", "5")
    code, _, err = run("photo.png", "other.png", *words[1:])
    assert code == 2 and "trained with 1 reference, got 2" in err and not (tmp_path / "out.png").exists()
    monkeypatch.setattr(pipe, "trained_references", 2)
    assert run("photo.png", "other.png", *words[1:])[0] == 0
    frames, settings = provenance.read_references("out.png"), provenance.read_settings("out.png")
    hashes = [settings["reference_sha256"], *settings["further_references_sha256"]]
    assert [provenance.image_hash(frame) for frame in frames] == hashes and len(hashes) == 2
    assert "identical to the original" in run("--from", "out.png")[1]
    with pytest.raises(ValueError, match="drawn from 2 references, and only one is read here"):
        provenance.read_reference("out.png")
    assert run(*words)[0] == 0 and "further_references_sha256" not in provenance.read_settings("out.png")


@pytest.mark.parametrize(
    "words", [["-o", "x", "a", "b", "c d"], ["a", "-o", "x", "b", "c d"], ["a", "b", "c d", "-o", "x"]]
)
def test_images_and_prompt_stand_anywhere(words):
    args = flags.parse(words)
    assert (args.images, args.prompt, args.output) == (["a", "b"], "c d", "x")
    assert flags.parse(["a"]).images == ["a"] and flags.parse(["a"]).prompt is None
    assert flags.parse([]).images == []


def test_a_full_disk_leaves_the_image_that_has_the_name(run, tmp_path):
    resource = pytest.importorskip("resource")
    run("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--seed", "5")
    before, limits = (tmp_path / "out.png").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        code, _, err = run("photo.png", "a hat", "-o", "out.png", "--steps", "1", "--seed", "6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and "cannot write out.png" in err and err.count("\n") == 1
    assert (tmp_path / "out.png").read_bytes() == before and not list(tmp_path.glob(".*.part"))


def test_a_story_is_a_strip_and_its_panels_each_drawn_again_alone(run, tmp_path):
    (tmp_path / "lines.txt").write_text("in the snow\n\nat sea\n")
    flags = ["--steps", "1", "--seed", "5", "--image-guidance", "1"]
    code, out, _ = run("photo.png", "--story", "lines.txt", "-o", "strip.pdf", *flags)
    assert code == 0 and "seed 5" in out and (tmp_path / "strip.pdf").read_bytes().startswith(b"%PDF")
    settings = provenance.read_settings(tmp_path / "strip-2.png")
    assert (settings["prompt"], settings["seed"]) == ("at sea", 6)
    assert "identical to the original" in run("--from", "strip-2.png")[1]
    assert sorted(path.name for path in tmp_path.glob("strip-?.png")) == ["strip-1.png", "strip-2.png"]


@pytest.fixture
def interrupted(pipe):
    """Ctrl-C in the second of several images of one step."""
    calls = []

    def interrupt(*_) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    hook = pipe.transformer.register_forward_hook(interrupt)
    yield
    hook.remove()


@pytest.mark.usefixtures("interrupted")
def test_an_interrupted_story_keeps_the_panels_that_are_drawn_and_a_strip_of_them(run, tmp_path):
    (tmp_path / "lines.txt").write_text("in the snow\nat sea\nin a room\n")
    flags = ["--steps", "1", "--seed", "5", "--image-guidance", "1"]
    code, _, err = run("photo.png", "--story", "lines.txt", "-o", "strip.png", *flags)
    assert code == 130 and err.endswith("stopped\n") and not (tmp_path / "strip-2.png").exists()
    (panel,) = provenance.read_settings(tmp_path / "strip.png")["panels"]
    assert panel == provenance.read_settings(tmp_path / "strip-1.png") and panel["seed"] == 5


def test_a_story_takes_all_its_words_from_the_lines():
    args = flags.parse(["one.png", "two.png", "--story", "lines.txt"])
    assert (args.images, args.prompt) == (["one.png", "two.png"], None)


def test_a_task_suggests_words_and_draws_the_same_image(run, pipe, monkeypatch, tmp_path):
    words = ("--steps", "1", "--seed", "5", "--task", "relight")
    code, _, err = run("photo.png", *words)
    assert code == 2 and "photo.png has no prompt beside it; words for relight are at sunset, at night" in err
    assert "in neon light" in run("photo.png", *words, "--model", "flux-dev")[2]
    code, _, err = run("photo.png", "a hat", "-o", "out.png", *words)
    assert code == 2 and "trained for identity, got --task relight" in err and err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
    monkeypatch.setattr(pipe, "trained_tasks", ("identity", "relight"))
    monkeypatch.setattr("dsd.model.known_words.unknown_words", lambda *_: {"hat": []})
    code, _, err = run("photo.png", "a hat", "-o", "out.png", *words)
    assert code == 0 and 'does not know "hat" and ignores it. Some words for relight are at sunset' in err
    assert run("photo.png", "a hat", "-o", "plain.png", *words[:-2])[0] == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


STORY = ["photo.png", "--story", "notes.png"]
MISTAKES = {
    "a story without an output": (STORY, "--story needs an image and -o"),
    "from with a story": (["--from", "photo.png", "--story", "notes.png"], "leave out --story"),
    "a story as JPEG": ([*STORY, "-o", "o.jpg"], "-o must end in .png or .pdf"),
    "a story with a count": ([*STORY, "-o", "o.png", "--count", "2"], "leave out --count"),
    "a story that is ranked": ([*STORY, "-o", "o.png", "--rank"], "leave out --rank"),
    "a story that is an image": (["photo.png", "--story", "photo.png", "-o", "o.png"], "text file in UTF-8"),
    "describe without a judge": (
        ["photo.png", "a hat", "-o", "o.png", "--describe", "--model", "flux-dev"],
        "name one with --judge",
    ),
    "an unknown task": (
        ["photo.png", "--task", "sing"],
        "--task must be one of identity, relight, edit for pocket, got 'sing'",
    ),
    "from with a task": (["--from", "photo.png", "--task", "edit"], "leave out --task"),
    "from with describe": (["--from", "photo.png", "--describe"], "leave out --describe"),
    "no arguments": ([], "pass an image, a prompt and -o OUT.png"),
    "no such image": (["none.png", "a hat", "-o", "o.png"], "there is no file none.png"),
    "not an image": (["notes.png", "a hat", "-o", "o.png"], "not an image"),
    "an empty prompt": (["photo.png", " ", "-o", "o.png"], "prompt is empty"),
    "fast and a quality": (
        ["photo.png", "a hat", "-o", "o.png", "--fast", "--quality", "best"],
        "--quality: not allowed with argument --fast",
    ),
    "a bad size": (["photo.png", "a hat", "-o", "o.png", "--width", "50"], "multiple of 16"),
    "no number": (["photo.png", "a hat", "-o", "o.png", "--steps", "many"], "invalid int value"),
    "an unknown fit": (["photo.png", "a hat", "-o", "o.png", "--fit", "squash"], "invalid choice"),
    "an unknown flag": (["photo.png", "a hat", "-o", "o.png", "--sharp"], "unrecognized"),
    "guidance the model lacks": (["photo.png", "a hat", "-o", "o.png", "--guidance", "3.5"], "guidance"),
    "no such folder": (["photo.png", "a hat", "-o", "none/o.png"], "there is no folder none"),
    "a folder as output": (["photo.png", "a hat", "-o", "folder.png"], "cannot be written"),
    "a lossy output": (["photo.png", "a hat", "-o", "o.jpg"], "must end in .png"),
    "from without settings": (["--from", "photo.png"], "has no settings"),
    "from with a setting": (["--from", "photo.png", "--steps", "3"], "leave out --steps"),
    "a judge's model without a judge": (
        ["photo.png", "a hat", "-o", "o.png", "--rank", "--judge-model", "two"],
        "--judge-model would have no effect without --judge: add it, or drop it",
    ),
    "a judge without work": (
        ["photo.png", "a hat", "-o", "o.png", "--judge", "pocket"],
        "--judge would have no effect without --rank or --describe",
    ),
    "an encoder without work": (
        ["photo.png", "a hat", "-o", "o.png", "--describe", "--embedder", "eyes"],
        "--embedder would have no effect without --rank",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, run, tmp_path):
    argv, expected = MISTAKES[name]
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    code, _, err = run(*argv)
    assert code == 2 and expected in err and err.count("\n") == 1, err


def test_a_device_that_is_not_there_is_a_mistake_too(capsys, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr("torch.empty", refuse)
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    argv = [str(tmp_path / "photo.png"), "a hat", "-o", str(tmp_path / "o.png"), "--device", "cuda"]
    assert command.run(flags.parse(argv)) == 2
    assert (
        capsys.readouterr().err
        == "dsd.generate: device 'cuda' cannot be used: Torch not compiled with CUDA enabled\n"
    )


def test_an_unknown_model_is_named_with_those_there_are(capsys, tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    argv = [str(tmp_path / "photo.png"), "a hat", "-o", str(tmp_path / "o.png"), "--model", "nonesuch"]
    assert command.run(flags.parse(argv)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nonesuch" in said and "pocket" in said
