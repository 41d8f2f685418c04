"""The ``kdnas`` command line: one module a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``kdnas``; None for those of this process.

    Returns:
        The exit status: 0 if all went well, 1 if what was asked for was done and came to nothing (no student, no score
        of the model) or found something wrong, 2 for bad input, 130 after Ctrl-C.
    """
    from rich.markup import escape

    from kdnas_env.cli.commands import parse
    from kdnas_env.cli.console import SafeConsole
    from kdnas_env.cli.interruption import Interrupted
    from kdnas_env.errors import KDNASError

    try:
        command = parse(sys.argv[1:] if arguments is None else list(arguments))
        return command()
    except (KDNASError, ValueError, OSError) as error:
        SafeConsole(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}")
        return 2
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        SafeConsole(stderr=True).print("stopped")
        return 130
