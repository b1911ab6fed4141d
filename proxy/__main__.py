"""`python -m proxy` is `readthrough`."""

import sys

from proxy.cli import main

sys.exit(main())
