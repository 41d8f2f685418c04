"""Run the command ``kdnas`` as ``python -m kdnas_env``, for launchers of modules such as ``torchrun``."""

from __future__ import annotations

import sys

from kdnas_env.cli import main

if __name__ == "__main__":
    sys.exit(main())
