"""The command: `python -m dsd.doctor`."""

import os
import sys

from dsd.doctor.doctor import main

code = main()
sys.stdout.flush()
os._exit(code)  # a hub that does not answer must not hold the exit
