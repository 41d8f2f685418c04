"""Progress that keeps what it is told, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kdnas_env.support.progress import Tone


@dataclass
class ProgressLog:
    """Keeps what it is told.

    Attributes:
        on_say: Called when something is said.
        begun: Names of the work that began.
        steps: How far it was, and of how much.
        said: What was said.
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
