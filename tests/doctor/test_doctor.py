"""Will it run here? Every machine gets a choice that fits, a command that parses, and what it still lacks."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

import app
from dsd.doctor import advice, doctor
from dsd.doctor.advice import BASE, DOWNLOADS, WEIGHTS, Facts, advise, explain_shortage, find_lighter
from dsd.generate import flags
from dsd.model import checkpoint, memory
from dsd.model.checkpoint import LoadError, load_pipeline
from dsd.model.memory import ROOM, WAYS, Way
from dsd.model.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
HERE = dict.fromkeys(("python", "torch", "diffusers", "transformers", "gradio", "bitsandbytes"), "1.0")
NONE = Facts(ram_total=64 * GIB, ram_free=60 * GIB, disk_free=500 * 10**9, versions=HERE, cache="/cache")


def card(size: int, **facts) -> Facts:
    """A machine with a GPU of `size` GiB, a token and the license."""
    gpu = {"device": "cuda", "gpu": "a card", "gpu_total": size * GIB, "gpu_free": size * GIB - 400_000_000}
    return replace(NONE, **{**gpu, "token": True, "access": advice.GRANTED, **facts})


# -- the choice


@pytest.mark.parametrize(
    ("size", "offload", "quantize", "quality"),
    [
        (80, "none", None, "best"),
        (48, "none", None, "best"),
        (32, "model", None, "balanced"),
        (24, "none", "8bit", "balanced"),
        (16, "model", "8bit", "balanced"),
        (12, "model", "4bit", "balanced"),
        (8, "group", None, "draft"),
    ],
)
def test_a_card_gets_the_best_way_that_fits(size, offload, quantize, quality):
    facts = card(size)
    chosen = advise(facts)
    assert (chosen.preset, chosen.device, chosen.dtype) == ("flux-dev", "cuda", "bfloat16")
    assert (chosen.offload, chosen.quantize, chosen.quality) == (offload, quantize, quality)
    assert Way(offload, quantize).gpu <= ROOM * facts.gpu_free and not chosen.missing and not chosen.later
    assert any("not measured" in line for line in chosen.expect)
    assert any("computed" in line for line in chosen.expect)


def test_without_a_gpu_it_is_pocket_and_says_why():
    chosen = advise(NONE)
    assert (chosen.preset, chosen.device, chosen.later) == ("pocket", "cpu", None)
    assert "NVIDIA GPU" in " ".join(chosen.expect)
    assert "CUDA build" in " ".join(advise(replace(NONE, nvidia=True)).expect)


def test_a_mac_needs_the_memory_for_all_of_it():
    mac = replace(NONE, device="mps", gpu="Apple GPU", token=True, access=advice.GRANTED)
    chosen = advise(mac)
    assert (chosen.preset, chosen.device, chosen.offload, chosen.quantize) == (
        "flux-dev",
        "mps",
        "none",
        None,
    )
    small = advise(replace(mac, ram_free=12 * GIB))
    assert small.preset == "pocket" and "12.9 GB are free" in " ".join(small.expect)


def test_a_card_that_is_too_small_or_a_machine_without_memory_is_told_which():
    assert "GPU memory" in advise(card(2)).expect[-1] and advise(card(2)).preset == "pocket"
    poor = advise(card(8, ram_free=8 * GIB))
    assert poor.preset == "pocket" and "main memory" in poor.expect[-1]


def test_little_main_memory_takes_the_way_that_needs_little_of_it():
    assert advise(card(48, ram_free=10 * GIB)).quantize == "8bit"


def test_memory_that_others_hold_is_named():
    assert "other programs" in " ".join(advise(card(48, gpu_free=20 * GIB)).expect)
    assert "other programs" not in " ".join(advise(card(48)).expect)


# -- what is missing


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"token": False, "access": advice.NO_TOKEN}, "HF_TOKEN"),
        ({"access": advice.REFUSED}, "accept it at https://huggingface.co/black-forest-labs/FLUX.1-dev"),
        ({"access": advice.BAD_TOKEN}, "settings/tokens"),
        ({"access": advice.OFFLINE}, "HF_HUB_OFFLINE"),
        ({"disk_free": 5 * 10**9}, "HF_HOME"),
    ],
)
def test_what_is_missing_is_said_and_pocket_runs_meanwhile(facts, words):
    chosen = advise(card(24, **facts))
    assert chosen.preset == "pocket" and words in " ".join(chosen.missing)
    assert chosen.later.preset == "flux-dev" and chosen.later.quantize == "8bit"


def test_files_that_are_there_need_no_token_no_network_and_no_disk():
    there = {"cached": dict(DOWNLOADS), "disk_free": 0}
    for access in (advice.NO_TOKEN, advice.OFFLINE):
        assert advise(card(24, token=False, access=access, **there)).preset == "flux-dev"
    half = {"cached": {BASE: DOWNLOADS[BASE]}}  # only the gated half
    assert advise(card(24, token=False, access=advice.NO_TOKEN, **half)).preset == "flux-dev"


def test_a_missing_package_is_named_and_an_optional_one_is_a_command():
    without = {**HERE, "diffusers": None}
    assert "diffusers" in advise(card(24, versions=without)).missing[0]
    assert "requirements.txt" in advise(replace(NONE, versions=without)).missing[0]
    assert advise(card(24, versions={**HERE, "bitsandbytes": None})).commands[0] == memory.INSTALL
    assert advise(card(48, versions={**HERE, "bitsandbytes": None})).commands[0] != memory.INSTALL


# -- the commands are true


@pytest.mark.parametrize("facts", [NONE, *(card(size) for size in (8, 12, 16, 24, 32, 48))])
def test_every_command_is_one_that_the_programs_take(facts):
    import shlex

    runs, generates = (shlex.split(line) for line in advise(facts).commands[-2:])
    assert runs[:2] == ["python", "app.py"] and generates[:3] == ["python", "-m", "dsd.generate"]
    args = app.parse(runs[2:])
    assert flags.parse(generates[3:]).model == (args.model if args.model != "pocket" else None)
    assert (args.offload, args.quantize) == (advise(facts).offload, advise(facts).quantize)


def test_the_preset_is_the_one_that_is_loaded():
    preset = PRESETS["flux-dev"]
    assert (preset.base, preset.weights, preset.license_page) == (BASE, WEIGHTS, advice.PAGE)
    assert str(preset.dtype).endswith(advise(card(48)).dtype)
    assert {way.offload for way in WAYS} == set(checkpoint.OFFLOADS)


# -- where loading fails


def test_a_shortage_names_what_there_is_and_a_command_that_takes_less():
    said = explain_shortage(card(24), "flux-dev", Way(), main=False)
    assert "it needs about 36" in said and "25.4 GB are free" in said
    assert "python app.py --model flux-dev --quantize 8bit" in said and "\n" not in said
    assert memory.INSTALL in explain_shortage(card(24, versions={}), "flux-dev", Way(), main=False)
    assert "--quantize 4bit --offload model" in explain_shortage(
        card(12), "flux-dev", Way("model", "8bit"), main=False
    )


def test_where_nothing_is_lighter_pocket_is_named():
    assert find_lighter(card(24), Way("sequential")) is None and find_lighter(NONE, Way()) is None
    assert "nothing lighter fits; python app.py runs" in explain_shortage(NONE, "flux-dev", Way(), main=True)


def test_main_memory_that_ran_out_is_not_mended_by_more_of_it():
    less = find_lighter(card(48), Way(), main=True)
    assert less.ram < Way().ram


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(), OSError(12, "Cannot allocate memory")],
)
@pytest.mark.parametrize("stage", ["_open_transformer", "place"])
def test_loading_that_runs_out_of_memory_says_what_to_do(monkeypatch, error, stage):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint, stage, fail)
    with pytest.raises(LoadError, match=r"pocket does not fit into .*memory: python -m dsd.doctor") as raised:
        load_pipeline("pocket", device="cpu")
    words = r"pocket does not fit into .*memory, of which .* are free.*doctor"
    assert re.match(words, doctor.remedy(raised.value))


def test_other_errors_stay_what_they_are(monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(checkpoint, "_open_transformer", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        load_pipeline("pocket", device="cpu")


# -- the command


class Hub(BaseHTTPRequestHandler):
    """A hub that knows one token and has its license refused."""

    def do_GET(self):  # noqa: N802 (the base class names it)
        self.server.asked.append(self.path)
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_command_asks_the_hub_loads_no_model_library_and_never_shows_the_token(tmp_path):
    hub = HTTPServer(("127.0.0.1", 0), Hub)
    hub.asked = []
    Thread(target=hub.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": "hf_secretsecret",
        "NO_PROXY": "127.0.0.1",
    }
    code = (
        "import sys; from dsd.doctor import doctor; doctor.PATIENCE = 60; code = doctor.main(['--json']);"
        "assert not {'diffusers', 'transformers', 'gradio'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    hub.shutdown()
    facts = json.loads(done.stdout)["facts"]
    assert facts["access"] == advice.REFUSED and facts["token"] is True
    assert any(BASE in path for path in hub.asked)
    assert "secret" not in done.stdout + done.stderr and facts["cache"].startswith(str(tmp_path))


def test_offline_says_so(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "not asked: offline" in said and "python app.py" in said


def test_the_report_shows_what_is_missing_and_what_comes_then():
    facts = card(24, token=False, access=advice.NO_TOKEN)
    page = doctor.report(facts, advise(facts))
    assert "HF_TOKEN" in page and "Then this machine can run: flux-dev" in page and "--quantize 8bit" in page
