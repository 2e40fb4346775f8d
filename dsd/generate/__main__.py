"""Entry point of `python -m dsd.generate`."""

import sys

from dsd.files import signals
from dsd.files.errors import escape_output
from dsd.generate.command import quiet, run, stop
from dsd.generate.flags import parse

escape_output()
signals.watch()
arguments = parse()
try:
    quiet()  # after parsing: it imports the libraries, and --help must respond at once
except KeyboardInterrupt as error:
    sys.exit(stop(error))
sys.exit(run(arguments))
