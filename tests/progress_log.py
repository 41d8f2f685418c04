"""Progress that records its calls, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kdnas_env.support.progress import Tone


@dataclass
class ProgressLog:
    """Records its calls.

    Attributes:
        on_say: Called by each ``say``.
        begun: Names passed to ``begin``.
        steps: Arguments of ``advance``: finished and total work.
        said: Texts passed to ``say``.
    """

    on_say: Callable[[], None] = lambda: None
    begun: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def begin(self, name: str) -> None:
        self.begun.append(name)

    def advance(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        pass

    def say(self, text: str, tone: Tone = "plain") -> None:
        self.said.append(text)
        self.on_say()

    def end(self) -> None:
        pass
