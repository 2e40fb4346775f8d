"""Entry point of `python -m dsd.generate`."""

import sys

from dsd.generate.command import quiet, run
from dsd.generate.flags import parse

arguments = parse()
quiet()  # after parsing: it imports the libraries, and --help must respond at once
sys.exit(run(arguments))
