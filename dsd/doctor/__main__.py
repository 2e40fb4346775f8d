"""Entry point of `python -m dsd.doctor`."""

import sys

from dsd.doctor.doctor import main
from dsd.files.errors import escape_output

escape_output()
sys.exit(main())
