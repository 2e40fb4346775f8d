"""Entry point of `python -m dsd.doctor`."""

import sys

from dsd.doctor.doctor import main

sys.exit(main())
