"""Entry point of `python -m dsd.doctor`."""

import os
import sys

from dsd.doctor.doctor import main

code = main()
sys.stdout.flush()
os._exit(code)  # do not wait for a hub request that is still running
