"""The command: `python -m train.pocket.judge`."""

from train import command
from train.pocket.judge.model import main

if __name__ == "__main__":
    command.run(main)
