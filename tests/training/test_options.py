"""Settings: refused with their value before any work, and one flag for each on the command line."""

from dataclasses import fields

import pytest

from dsd.evaluation import scores
from dsd.model.presets import POCKET
from dsd.training.options import ATTENTION, TrainingError, TrainOptions
from train import train as command

WRONG = [
    ("steps", 0, "steps must be a whole number, at least 1, got 0"),
    ("batch", 1.5, "got 1.5"),
    ("lr", 0.0, "lr must be a number above 0, got 0.0"),
    ("lr", float("nan"), "got nan"),
    ("text_dropout", 1.5, "text_dropout must be a number from 0 to 1, got 1.5"),
    ("lora_dropout", 1.0, "at least 0 and below 1, got 1.0"),
    ("ema", 1.0, "ema must be a number"),
    ("decay", -0.1, "got -0.1"),
    ("alpha", 0.0, "alpha must be a number above 0"),
    ("text_tokens", 513, "from 1 to 512, got 513"),
    ("precision", "fp16", "precision must be one of bf16, fp32, got 'fp16'"),
    ("quantize", "2bit", "quantize must be one of 8bit, 4bit, got '2bit'"),
    ("sizes", ("500x512",), "size 500x512: width must be a multiple of 16, got 500"),
    ("sizes", ("512by512",), "sizes must be written like 512x512, got '512by512'"),
    ("targets", (), "targets is empty"),
]


@pytest.mark.parametrize("name, value, message", WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_a_wrong_setting_is_refused_with_its_value(name, value, message):
    with pytest.raises(TrainingError) as refused:
        TrainOptions(**{name: value})
    assert message in str(refused.value)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(TrainingError, match="is for frozen weights, but full trains all weights"):
        TrainOptions(full=True, quantize="4bit")
    with pytest.raises(TrainingError, match="are both 0"):
        TrainOptions(reference_weight=0, target_weight=0)


def test_the_defaults_are_the_papers():
    options = TrainOptions()
    assert (options.lr, options.steps, options.rank, options.targets) == (1e-4, 100_000, 128, ATTENTION)
    assert options.batch * options.accumulate * 8 == 160
    assert (options.text_dropout, options.condition_dropout) == (0.1, 0.1)
    assert (options.shift, options.ema) == (1.0, 0.0)


def test_sizes_are_width_by_height():
    assert TrainOptions(sizes=("512x384", "64")).frames == ((512, 384), (64, 64))


def parse(*flags: str) -> TrainOptions:
    return command.options_of(command._parser().parse_args(["data", "--out", "out", *flags]))


def test_every_setting_has_a_flag_with_help():
    page = command._parser().format_help()
    assert all(
        f"--{one.name.replace('_', '-')}" in page and one.metadata["help"] for one in fields(TrainOptions)
    )


def test_pocket_is_validated_often_enough_for_the_alarm():
    options = parse()
    assert options.steps / options.validate_every >= 2 * scores.FEWEST


def test_flags_become_settings():
    options = parse(
        "--model", "flux-dev", "--lr", "3e-4", "--sizes", "512", "512x384", "--no-full", "--ema", "0.9"
    )
    assert (options.lr, options.sizes, options.full, options.ema) == (3e-4, ("512", "512x384"), False, 0.9)


def test_a_model_by_name_brings_what_suits_it_and_a_flag_wins_over_that():
    assert parse() == TrainOptions(**POCKET.training)
    with pytest.raises(ValueError, match="--rank and --targets would have no effect, because all weights"):
        parse("--rank", "8", "--targets", "to_q")
    assert parse("--rank", "8", "--no-full").rank == 8
    lora = {**POCKET.training, "full": False, "optimizer": "adamw", "lr": 0.5}
    assert parse("--no-full", "--lr", "0.5") == TrainOptions(**lora), "Muon trains all weights only"
    assert parse("--model", "somewhere/else") == TrainOptions(model="somewhere/else")


def test_a_flag_that_is_no_number_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--lr", "fast")
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_shapes_the_result_binds_a_run_and_what_does_not_is_free():
    bound = TrainOptions().binding()
    assert TrainOptions(steps=5, save_every=7, cache="x", batch=2).binding() == bound
    assert TrainOptions(lr=1.0).binding() != bound


def test_old_names_of_flags_are_taken_and_not_listed():
    flags = ["--columns-start", "2", "--image-dropout", "0.3", "--instruction-share", "0.4"]
    options = parse(*flags)
    assert (options.condition_init_scale, options.condition_dropout) == (2, 0.3)
    assert options.instruction_prob == 0.4
    page = command._parser().format_help()
    assert not any(flag in page for flag in (*flags[::2], "--quantise"))
