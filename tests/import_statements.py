"""Import statements of the project's files, parsed from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def import_statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return all import statements of a file, also those within functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in _statements(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements within a node; expressions, most of a tree, are skipped."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)
