"""A process whose launcher is gone ends, instead of waiting for hours for the others."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
# The launcher dies once its worker waits for a second process that never comes.
LAUNCHER = '''
import os, subprocess, sys, time
code = """
from train import blocks
follow = blocks._follow
def shout(launcher):
    print("ready", flush=True)
    follow(launcher)
blocks._follow = shout
blocks.join()
"""
worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
time.sleep(0.5)
os._exit(1)
'''


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_worker_whose_launcher_is_gone_ends():
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", LAUNCHER]
    launcher = subprocess.Popen(
        command, env=os.environ | ranks | place, cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    worker = int(launcher.stdout.readline())
    launcher.wait(120)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and _is_running(worker):
        assert time.monotonic() < deadline, "it still waits"
        time.sleep(0.2)


def _is_running(process: int) -> bool:
    """Whether it is more than a record that nobody has read yet."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
