"""Rehearse a Space: `python -m tests.space`.

It builds a fresh environment by the steps that Spaces takes (`pre-requirements.txt`, then `requirements.txt`
with gradio in the README's `sdk_version`), starts the README's `app_file` there with a Space's variables, and
draws one example through the API. It downloads all packages, so it is not for CI, and it has no GPU.
"""

import os
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import httpx
from huggingface_hub import metadata_load

from dsd.doctor.space import PINS
from tests import servers
from tests.project import ROOT
from tests.smoke import as_a_program

PATIENCE = 300  # seconds for the page to answer


def install(folder: Path, sdk_version: str) -> Path:
    """Return the Python of a new environment with the packages that a Space would have."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for packages in (["-r", ROOT / PINS], ["-r", ROOT / "requirements.txt", f"gradio=={sdk_version}"]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def start(python: Path, app_file: str, port: int) -> subprocess.Popen:
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    space = {"SPACE_ID": "somebody/dsd", "SYSTEM": "spaces", "HF_HUB_OFFLINE": "1"}
    server = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    return subprocess.Popen([python, app_file], cwd=ROOT, env=given | space | server)


def wait(url: str, app: subprocess.Popen) -> None:
    """Return when the page answers; raise TimeoutError if it does not, or has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and app.poll() is None:
        try:
            httpx.get(url, trust_env=False).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise TimeoutError(f"no answer within {PATIENCE} s, or the app ended ({app.poll()}): see its log above")


def main() -> None:
    header, port, began = metadata_load(ROOT / "README.md"), servers.free_port(), time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder, "venv"), header["sdk_version"])
        tell("installed")
        app = start(python, header["app_file"], port)
        try:
            wait(url := f"http://127.0.0.1:{port}/", app)
            tell("the page answers")
            as_a_program(url, Path(folder))
            tell("drew an example through the API")
        finally:
            app.terminate()
            app.wait()


if __name__ == "__main__":
    main()
