"""Entry point of `python -m dsd.generate`."""

import sys

from dsd.generate.command import main

sys.exit(main())
