"""The benchmarks of drawing, on toy sizes: the published way draws the same image, counts are right."""

import json

import pytest
import torch

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import evaluate, measure_levels
from dsd.evaluation.validation import Benchmark
from dsd.files import jsonl
from dsd.model.sampling import QUALITIES
from tests import tiny
from train.bench import __main__ as command
from train.bench import flux as bench_flux
from train.bench import gpu as bench_gpu
from train.bench import inference as bench_inference
from train.bench import qualities as bench_qualities
from train.bench.qualities import Result
from train.bench.timing import Seconds

CPU = torch.device("cpu")
FLUX = {
    "in_channels": 32, "out_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


@pytest.mark.parametrize("scales", bench_inference.SCALES)
@pytest.mark.parametrize("together", [False, True])
def test_the_published_way_draws_the_same_image(pipe, scales, together):
    row = bench_inference.compare(pipe, scales, steps=4, rounds=1, together=together)
    assert row["largest difference of a pixel, 0..1"] <= 1e-4
    assert row["evaluations"] <= row["theirs"] == (4 if scales == (1.0, 1.0) else 2 + 2 * 3)
    json.dumps(row)


def test_a_row_compares_with_best():
    cases, scorer = validation_set(0, 3, 1), CritterScorer()
    levels = measure_levels(cases, scorer)
    truth, copies = (
        evaluate(lambda *_, drawn=drawn: drawn, cases, scorer, levels=levels)
        for drawn in ([case.truth for case in cases], [case.reference for case in cases])
    )
    best = Result(truth, Seconds(wall=60, cpu=30), evaluations=240)
    row = bench_qualities.row("copies", Result(copies, Seconds(wall=6, cpu=3), evaluations=30), best)
    assert (row["times faster"], row["fewer evaluations"], row["evaluations"]) == (10, 8, 10)
    assert row["share of best"] < 0.8 and row["difference, 95 %"][1] < 0


def test_every_quality_is_drawn_and_its_evaluations_are_counted(pipe):
    benchmark = Benchmark(validation_set(0, 2, 1, size=32), CritterScorer())
    for name, quality in QUALITIES.items():
        result = bench_qualities.measure(pipe, name, benchmark)
        assert len(result.scores.images) == 2 and result.evaluations >= 2 * quality.steps


# -- the card's part, on the CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_nothing_is_measured():
    rows = list(bench_gpu.gpu_rows())
    assert {row["part"] for row in rows} == {"evaluation", "offload", "quantized", "training"}
    assert all(row["measured"] is False for row in rows)


def test_an_evaluation_is_timed_and_its_arithmetic_counted(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: None)  # a minute on a CPU
    rows = list(bench_gpu.evaluation_rows(lambda: bench_gpu.transformer(CPU, FLUX), (32, 48), 1e12))
    assert [(row["frame"], row["compiled"]) for row in rows] == [
        (32, False),
        (48, False),
        (32, True),
        (48, True),
    ]
    assert all(row["s"] >= 0 for row in rows)


def test_drawing_is_timed_on_a_whole_pipeline():
    t5 = {"vocab_size": 32128, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 1, "num_heads": 2}
    clip = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1}
    clip |= {"num_attention_heads": 2, "projection_dim": 32}
    vae = bench_gpu.VAE | {"block_out_channels": [4] * 4, "layers_per_block": 1, "latent_channels": 4}
    sizes = (FLUX, t5, clip, vae | {"norm_num_groups": 1})
    (row,) = bench_gpu.offload_rows(lambda: bench_gpu.pipeline(CPU, sizes), CPU, "none", 32)
    assert row["frame"] == 32 and row["peak GB"] > 0


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_step_of_training_is_timed(checkpointing):
    model = bench_gpu.transformer(CPU, FLUX)
    (row,) = bench_gpu.training_rows(lambda: model, 32, checkpointing=checkpointing, base="bf16", rank=4)
    assert row["s a step"] > 0 and model.gradient_checkpointing == checkpointing


def test_what_does_not_fit_or_is_missing_says_so():
    def full():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        yield

    (row,) = bench_gpu.catch_failure(full(), part="offload", offload="none")
    assert bench_gpu.describe_failure(NotImplementedError())["why"] == "NotImplementedError"
    assert row == {
        "part": "offload", "offload": "none", "measured": False,
        "why": "CUDA out of memory. Tried to allocate 2 GiB",
    }  # fmt: skip


def test_the_command_runs_them_and_prints_their_rows_alone(monkeypatch, capsys):
    def rounds(args):
        print("Loading weights")  # as libraries do
        yield {"rounds": args.rounds}

    monkeypatch.setattr(bench_inference, "measure_rows", rounds)
    monkeypatch.setattr(bench_qualities, "measure_rows", lambda args: [{"subjects": args.subjects}])
    assert command.main(["inference", "--rounds", "3"]) == command.main(["qualities", "--subjects", "7"]) == 0
    assert capsys.readouterr().out == '{"rounds": 3}\n{"subjects": 7}\n'


# -- what makes FLUX faster, at toy size


@pytest.fixture(scope="module")
def toy_rows():
    return run_toy([])


def run_toy(done: list[dict]) -> list[dict]:
    options = {"card": "toy", "frames": (32,), "most": 1e12}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: None)  # a minute on a CPU
        patch.setattr(bench_flux, "STEPS", 6)
        rows = bench_flux.all_rows(lambda: bench_gpu.transformer(CPU, FLUX), done, **options)
        return [row for group in rows for row in group]


def test_every_variant_is_measured_or_says_why_not(toy_rows):
    assert [row["variant"] for row in toy_rows] == list(bench_flux.VARIANTS)
    measured = {row["variant"]: row for row in toy_rows if "s" in row}
    assert {"as it comes", "compiled", *(f"cache {name}" for name in bench_flux.CACHES)} <= measured.keys()
    assert all(row["s"] >= 0 and row["peak GB"] > 0 for row in measured.values())
    assert measured["cache mag"]["note"] == "upper bound, quality not measured"
    assert "note" not in measured["as it comes"]
    failed = {row["variant"]: row["why"] for row in toy_rows if row.get("measured") is False}
    assert "attention _native_cudnn" in failed and "NVIDIA GPU" in failed["fp8-compute"]


def test_a_cache_skips_evaluations_of_the_bench():
    model, calls = bench_gpu.transformer(CPU, FLUX), []
    model.single_transformer_blocks[1].attn.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        bench_flux.VARIANTS["cache first-block"][0](model)(**bench_gpu.inputs(model, 32))
    assert len(calls) == 1 and not model.is_cache_enabled


def test_the_bench_continues_in_its_file(toy_rows, tmp_path):
    out = tmp_path / "flux.jsonl"
    half = [row for row in toy_rows if row["variant"] != "compiled"]
    assert list(bench_flux.keep(iter([half]), out)) == half
    failed = [row["variant"] for row in half if row.get("measured") is False]
    rest = run_toy(jsonl.read(out))  # a package may have been installed since
    assert {row["variant"] for row in rest} == {"compiled", *failed}
    list(bench_flux.keep(iter([rest]), out))
    assert [row["variant"] for row in run_toy(jsonl.read(out))] == failed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_command_says_that_there_is_no_card(capsys):
    assert command.main(["flux"]) == 0
    assert json.loads(capsys.readouterr().out)["why"] == "no CUDA"
