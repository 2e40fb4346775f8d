"""Copy the models of a run into `assets/pocket`: `python -m train.pocket.ship RUN`."""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from dsd.files import whole
from dsd.model.presets import ASSETS
from dsd.model.transformer import load_transformer
from train import command

LARGEST = "9MB"  # of a file of weights: git pushes no file above 10 MB to a Space


def ship(run: Path, assets: Path, largest: str = LARGEST) -> list[str]:
    """Copy the parts that exist, without the cards that libraries write, and return their names."""
    parts = [part for part in ("teacher", "student", "scorer", "ranker", "judge") if (run / part).is_dir()]
    training_files = shutil.ignore_patterns("README.md", "run", "samples*", "curves*", ".*")
    for part in parts:
        shutil.rmtree(assets / part, ignore_errors=True)
        shutil.copytree(run / part, assets / part, ignore=training_files)
        if part in ("teacher", "student"):  # the decoder may have improved since; latents never change
            shutil.copytree(run / "vae", assets / part / "vae", dirs_exist_ok=True)
            _change_config(assets / part / "vae" / "config.json", _name_or_path=None)
            _split(assets / part / "transformer", largest)
            for name in ("text_encoder", "text_encoder_2"):
                _halve(assets / part / name)
    if (run / "student" / "curves.jsonl").exists():  # a reference for other trainings
        shutil.copyfile(run / "student" / "curves.jsonl", assets / "curves.jsonl")
    return parts


def _split(transformer: Path, largest: str) -> None:
    """Replace the file of weights by several of at most `largest`, as diffusers saves and opens them."""
    whole_file = transformer / "diffusion_pytorch_model.safetensors"
    load_transformer(transformer).save_pretrained(transformer, max_shard_size=largest)
    if list(transformer.glob("*.index.json")):
        whole_file.unlink(missing_ok=True)


def _halve(encoder: Path) -> None:
    """Store the weights in float16; the config says float32, so that plain diffusers computes in it."""
    file = encoder / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})
    _change_config(encoder / "config.json", dtype="float32")


def _change_config(file: Path, **changes: str | None) -> None:
    """Set these entries, and leave out those that are None, such as the folder that a VAE was opened from."""
    config = json.loads(file.read_text()) | changes
    for name in [name for name in changes if config[name] is None]:
        del config[name]
    file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.ship", description=__doc__.split(":")[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder to copy into (assets/pocket)")
    args = parser.parse_args()
    with whole.locked(args.assets):
        parts = ship(args.run, args.assets)
    print(f"shipped {', '.join(parts)} to {args.assets}")


if __name__ == "__main__":
    command.run(main)
