"""Copy the models of a run into `assets/pocket`: `python -m train.pocket.ship RUN`."""

import argparse
import shutil
from pathlib import Path

from dsd.model.presets import ASSETS
from train import command


def ship(run: Path, assets: Path) -> list[str]:
    """Copy the parts that exist, without the cards that libraries write, and return their names."""
    parts = [part for part in ("teacher", "student", "scorer", "ranker", "judge") if (run / part).is_dir()]
    training_files = shutil.ignore_patterns("README.md", "run", "samples*", "curves*", ".*")
    for part in parts:
        shutil.rmtree(assets / part, ignore_errors=True)
        shutil.copytree(run / part, assets / part, ignore=training_files)
        if part in ("teacher", "student"):  # the decoder may have improved since; latents never change
            shutil.copytree(run / "vae", assets / part / "vae", dirs_exist_ok=True)
    if (run / "student" / "curves.jsonl").exists():  # a reference for other trainings
        shutil.copyfile(run / "student" / "curves.jsonl", assets / "curves.jsonl")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.ship", description=__doc__.split(":")[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder to copy into (assets/pocket)")
    args = parser.parse_args()
    print(f"shipped {', '.join(ship(args.run, args.assets))} to {args.assets}")


if __name__ == "__main__":
    command.run(main)
