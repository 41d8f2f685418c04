"""The ``kdnas`` command line: one module a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``kdnas``; None for those of this process.

    Returns:
        The exit status: 0 if all went well, 1 if something is missing (``doctor``), 2 for bad input, 130 after Ctrl-C.
    """
    from rich.console import Console
    from rich.markup import escape

    from kdnas_env.cli.commands import parse
    from kdnas_env.cli.interruption import Interrupted
    from kdnas_env.errors import KDNASError

    try:
        command = parse(sys.argv[1:] if arguments is None else list(arguments))
        return command()
    except (KDNASError, ValueError, OSError) as error:
        # What others have written goes to a terminal, which acts on control characters.
        told = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in str(error))
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(told)}")
        return 2
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        return 130
