"""The benchmarks of drawing, on toy sizes: the published way draws the same image, counts are right."""

import json
from argparse import Namespace

import pytest
import torch

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import evaluate, measure_levels
from dsd.model.sampling import QUALITIES, Quality
from tests import tiny
from train.bench import gpu as bench_gpu
from train.bench import inference as bench_inference
from train.bench import qualities as bench_qualities
from train.bench.qualities import Cost, Way, counted

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


def test_blocks_that_a_cache_passes_over_are_not_counted(pipe):
    from diffusers import FirstBlockCacheConfig

    counts = []
    for config in (None, FirstBlockCacheConfig(threshold=1e9)):
        cost = Cost()
        if config:
            pipe.transformer.enable_cache(config)
        with counted(pipe.transformer, cost):
            tiny.draw(pipe, num_inference_steps=4)
        counts.append(cost.evaluations)
    pipe.transformer.disable_cache()
    blocks = len(pipe.transformer.transformer_blocks) + len(pipe.transformer.single_transformer_blocks)
    assert counts == pytest.approx([4.0, 1 + 3 / blocks])


def test_every_way_of_drawing_draws_or_says_why_not(pipe, monkeypatch):
    """On random weights: what a way is worth only trained ones can tell."""
    monkeypatch.setitem(QUALITIES, "best", Quality(name="best", steps=4))
    cases = validation_set(0, 2, 1, size=32)
    for name, way in bench_qualities.ways().items():
        if not (name.startswith(("best", "6")) or way.cache):
            continue
        cost = Cost()
        images = bench_qualities.draw(pipe, way, cases, cost)
        assert len(images) == 2 and cost.evaluations > 0, name
        assert not pipe.transformer.is_cache_enabled and pipe.batch_branches is None


def test_a_row_compares_with_best():
    cases, scorer = validation_set(0, 3, 1), CritterScorer()
    levels = measure_levels(cases, scorer)
    truth, copies = (
        evaluate(lambda *_, drawn=drawn: drawn, cases, scorer, levels=levels)
        for drawn in ([case.truth for case in cases], [case.reference for case in cases])
    )
    costs = Cost(wall=6, processor=3, evaluations=30), Cost(wall=60, processor=30, evaluations=240)
    row = bench_qualities.row("copies", copies, costs[0], truth, costs[1])
    assert (row["times faster"], row["fewer evaluations"], row["evaluations"]) == (10, 8, 10)
    assert row["share of best"] < 0.8 and row["difference, 95 %"][1] < 0


def test_only_some_ways_and_best_with_them():
    assert list(bench_qualities.chosen(["unipc"]))[0] == "best"
    with pytest.raises(ValueError, match="fits no way"):
        bench_qualities.chosen(["nothing of this name"])
    assert all(isinstance(way, Way) for way in bench_qualities.chosen(None).values())


# -- the card's part, on the CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_nothing_is_measured():
    rows = list(bench_gpu.gpu_rows())
    assert {row["part"] for row in rows} == {"evaluation", "offload", "quantized", "training"}
    assert all(row["measured"] is False for row in rows)


def test_an_evaluation_is_timed_and_its_arithmetic_counted(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: None)  # a minute on a CPU
    rows = list(bench_gpu.evaluation_rows(bench_gpu.transformer(CPU, FLUX), (32, 48), 1e12))
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
    made = lambda device: bench_gpu.pipeline(device, (FLUX, t5, clip, vae | {"norm_num_groups": 1}))  # noqa: E731
    (row,) = bench_gpu.offload_rows(made, CPU, "none", 32)
    assert row["s a step"] > 0 and row["frame"] == 32


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_step_of_training_is_timed(checkpointing):
    model = bench_gpu.transformer(CPU, FLUX)
    (row,) = bench_gpu.training_rows(model, 32, checkpointing=checkpointing, base="bf16", rank=4)
    assert row["s a step"] > 0 and model.gradient_checkpointing == checkpointing


def test_what_does_not_fit_or_is_missing_says_so():
    def full():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        yield

    (row,) = bench_gpu._tried("offload", full, offload="none")
    assert row == {
        "part": "offload", "offload": "none", "measured": False,
        "why": "CUDA out of memory. Tried to allocate 2 GiB",
    }  # fmt: skip


def test_the_command_runs_them(monkeypatch, capsys):
    from train.bench import wheel as bench

    monkeypatch.setattr(bench_inference, "inference_rows", lambda args: iter([{"rounds": args.rounds}]))
    monkeypatch.setattr(bench_qualities, "quality_rows", lambda args: iter([{"only": args.only}]))
    rows = [
        list(bench._rows(Namespace(what=what, rounds=3, only=["x"]))) for what in ("inference", "qualities")
    ]
    assert rows == [[{"rounds": 3}], [{"only": ["x"]}]]
