"""Entry point of `python -m dsd.generate`."""

import sys

from dsd.files.errors import escape_output
from dsd.generate.command import quiet, run
from dsd.generate.flags import parse

escape_output()
arguments = parse()
quiet()  # after parsing: it imports the libraries, and --help must respond at once
sys.exit(run(arguments))
