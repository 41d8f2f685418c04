"""Layout of text files, as far as the files do not define it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from kdnas_env.errors import CorpusError

Unit = Literal["line", "file"]
UNITS = get_args(Unit)


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """Layout of tables, as far as files do not define it; also a base class of command options.

    Raises:
        CorpusError: If a value is out of range.
    """

    encoding: str | None = None
    """Encoding of text files; by default UTF-8, or the encoding of the byte-order mark."""
    separator: str | None = None
    r"""Separator of the cells of csv and tsv files, such as ; or \t; by default that of the file type."""
    quoted: bool | None = None
    """Whether cells of csv and tsv files may be in double quotes; by default yes, unless tabs separate the cells."""
    header: bool | None = None
    """Whether the first row of csv and tsv files names the columns; if not, they are called 1, 2, ... By default it
    does, and a first row that looks like text is refused."""

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise CorpusError(f"encoding={self.encoding!r} is unknown; name one such as 'latin-1'") from None
        if self.separator == "\\t":
            object.__setattr__(self, "separator", "\t")
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise CorpusError(f"separator={self.separator!r} is not one character between cells, such as ';' or '\\t'")


@dataclass(frozen=True, kw_only=True)
class TextLayout(TableLayout):
    """Layout of text files, as far as files do not define it.

    Raises:
        CorpusError: If a value is out of range.
    """

    unit: Unit | None = None
    """Text of a txt file: each line (the default), or the whole file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in (None, *UNITS):
            raise CorpusError(f"unit={self.unit!r} is not one of {list(UNITS)}")

    def given(self) -> dict[str, Any]:
        """Return the options that are set."""
        return {name: value for name in LAYOUT_OPTIONS if (value := getattr(self, name)) is not None}


AS_NAMED = TextLayout()
"""The layout derived from the name of a file."""

LAYOUT_OPTIONS = tuple(field.name for field in fields(TextLayout))
"""Names of the options of a layout."""
