"""``python -m zsrobust`` is ``zsrobust``."""

import sys

from zsrobust.cli import main

if __name__ == "__main__":
    sys.exit(main())
