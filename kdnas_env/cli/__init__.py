"""The ``kdnas`` command line: one module per command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after ``kdnas``; None for those of this process.

    Returns:
        The exit status: 0 for success; 1 if the command ran but had no result (no student, no score of the model) or
        found a fault; 2 for bad input; 130 after Ctrl-C.
    """
    import atexit
    import gc
    from importlib.metadata import version

    from rich.markup import escape

    from kdnas_env.cli.commands import parse
    from kdnas_env.cli.console import SafeConsole
    from kdnas_env.errors import KDNASError, NoStudentError
    from kdnas_env.pipeline.work import Interrupted
    from kdnas_env.support.child_processes import is_main_process

    # Without this, Python collects PyTorch's modules object by object at exit, which takes more than a second.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        SafeConsole().say(f"kdnas {version('kdnas')}")
        return 0
    try:
        command = parse(arguments)
        return command()
    except (KDNASError, ValueError, OSError, KeyboardInterrupt) as error:
        console = SafeConsole(quiet=not is_main_process())
        for note in getattr(error, "__notes__", ()):
            console.say(note)
        if isinstance(error, Interrupted):
            console.say(f"\nstopped; resume with\n\n    {error.go_on}\n")
            return 130
        errors = SafeConsole(stderr=True, soft_wrap=True)
        if isinstance(error, KeyboardInterrupt):
            errors.say("stopped")
            return 130
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        return 1 if isinstance(error, NoStudentError) else 2
