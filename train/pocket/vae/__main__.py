"""The command: `python -m train.pocket.vae`."""

from train import command
from train.pocket.vae.model import main

if __name__ == "__main__":
    command.run(main)
