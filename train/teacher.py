"""Tune the teacher on the grids that a judge kept: `python -m train.teacher RUN --model pocket`.

Trains a LoRA of the text-to-image model on whole grids of RUN: those with at least --share of their pairs
kept. With it, `train.grids RUN2 --teacher-lora FILE` draws the next turn of the wheel, and
`train.curate RUN2 --against RUN` compares the two. You can stop it at any time and run the same command again
to continue. On several GPUs: `accelerate launch -m train.teacher RUN ...`.
"""

import argparse
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dsd.files import jsonl
from dsd.model import origin
from dsd.model.presets import LORA
from dsd.training import curves
from dsd.training.options import TrainOptions
from train import command
from train.blocks import locked, place, say
from train.settings import add_settings, flags_of
from train.train import Report, join_quietly

if TYPE_CHECKING:
    from dsd.curation.kept_grids import GridRows
    from dsd.training.loop import TrainResult

DEFAULTS = {"steps": 500, "rank": 16, "lora_dropout": 0.0, "warmup": 20, "save_every": 100}
SUITED = ("batch", "accumulate", "beta2", "clip", "shift", "gradient_checkpointing")  # of the student's
OTHERS = (
    "lr", "weight_decay", "decay", "ema", "alpha", "targets", "text_dropout", "guidance",
    "text_tokens", "precision", "quantize", "distilled_base", "seed", "log_every", "cache",
)  # fmt: skip
HELP = {  # of settings that mean something else here than for a student
    "model": "FLUX.1 to tune, the one that drew the grids: a name, a folder or a hub id (pocket)",
    "batch": "grids per process and forward pass (the model's own)",
    "accumulate": "batches per step (the model's own)",
    "text_dropout": "share of samples with an empty prompt (0.1; 0 with embedded guidance)",
    "guidance": "embedded guidance, for distilled models (that of the grids)",
    "text_tokens": "tokens per text (as the grids were drawn)",
}


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the judged run")
    add("--out", type=Path, metavar="OUT", help="folder of the LoRA (RUN/teacher)")
    text = "take the grids with at least this share of their pairs kept (1: all pairs)"
    add("--share", type=float, default=1.0, metavar="X", help=text)
    texts = {one.name: one.metadata["help"] for one in fields(TrainOptions)}
    usual = {name: getattr(TrainOptions, name) for name in OTHERS}
    usual = {name: value for name, value in usual.items() if type(value) in (int, float)}
    shown = {name: f"{texts[name]} ({value})" for name, value in (usual | DEFAULTS).items()}
    shown |= {name: f"{texts[name]} (the model's own)" for name in SUITED}
    add_settings(parser, {name: texts[name] for name in OTHERS} | shown | HELP)
    parser.set_defaults(validate="none")
    return parser


def options_of(args: argparse.Namespace, rows: "GridRows") -> TrainOptions:
    """Return the options from the flags, then from the grids, then from what suits the model."""
    from dsd.grids.settings import drawn_tokens
    from dsd.model.checkpoint import resolve
    from dsd.training import teacher_lora

    flags = flags_of(args)
    preset, grid, (width, height) = resolve(flags.get("model", TrainOptions.model)), rows.grids[0], rows.size
    suited = {name: preset.training[name] for name in SUITED if name in preset.training}
    config = origin.transformer_config(preset.teacher or preset.base)
    is_embedded = bool(config.get("guidance_embeds"))
    drawn = {"text_dropout": 0.0} if is_embedded else {}
    drawn |= {"guidance": grid.guidance, "sizes": (f"{width // 2}x{height}",)}
    if "text_tokens" not in flags:
        drawn["text_tokens"] = drawn_tokens(preset.name, (grid.rows, grid.columns))
    return TrainOptions(**DEFAULTS | suited | drawn | flags | teacher_lora.FIXED)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    from dsd.curation.kept_grids import open_kept
    from dsd.training import teacher_lora
    from dsd.training.student import find_base

    args.out = args.out or args.run / "teacher"
    join_quietly()
    rows = open_kept(args.run, args.share)
    options = options_of(args, rows)
    teacher_lora.check_teacher(find_base(options))
    curves.import_figure()  # fail now, not at the end
    say(
        f"tuning {options.model} on {len(rows)} grids that {rows.grids[0].generator} drew; the judge kept at "
        f"least {args.share:.0%} of the pairs of each"
    )
    with locked(args.out / "run"):
        _train(args, options, rows)
    return 0


def _train(args: argparse.Namespace, options: TrainOptions, rows: "GridRows") -> None:
    from dsd.generate.drawing import public_name
    from dsd.training import teacher_lora
    from dsd.training.loop import train
    from dsd.training.student import find_base

    base = find_base(options)
    facts = rows.facts | {"teacher": public_name(base.name), "steps": options.steps}
    facts["license"] = origin.strictest([facts["license"], base.license])
    with closing(TeacherReport(args, options)) as report:
        result = train(
            rows, options, args.out, on_step=report.step, on_rows=report.rows,
            on_plan=lambda text: print(text, flush=True), method=teacher_lora.method(facts),
        )  # fmt: skip
    if place().is_main_process:
        report.finish_lora(result, facts)


class TeacherReport(Report):
    """The output of the command; the loss has no reference run to be compared with."""

    def plot(self, note: str | None = None) -> None:
        curves.write(self.args.out / "curves.jsonl", self.args.out / "curves.png", note=note)

    def finish_lora(self, result: "TrainResult", facts: dict[str, str | int | float]) -> None:
        """Write the card and the plotted loss beside the LoRA."""
        from dsd.training import teacher_lora

        out = self.args.out
        if (out / "curves.jsonl").exists():
            self.plot()
        text = teacher_lora.card(result, Path(out.name, LORA), facts)
        jsonl.write_atomic(out / "README.md", text.encode())
        model = f"--model {self.options.model} --teacher-lora {out / LORA}"
        print(f"saved {out / LORA}: python -m train.grids RUN2 {model}")


if __name__ == "__main__":
    command.run(main)
