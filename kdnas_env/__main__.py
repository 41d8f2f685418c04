"""``python -m kdnas_env`` is ``kdnas``; what starts modules, such as ``torchrun``, needs it."""

from __future__ import annotations

import sys

from kdnas_env.cli import main

if __name__ == "__main__":
    sys.exit(main())
