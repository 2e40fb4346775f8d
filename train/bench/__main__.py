"""Entry point of the command `python -m train.bench`."""

from train import command
from train.bench.wheel import main

command.run(main)
