"""`python -m troupelab`: the command line."""

import sys

from troupelab.cli import main

sys.exit(main())
