"""`python -m stellatrain` is `stella`."""

import sys

from stellatrain.cli import main

sys.exit(main())
