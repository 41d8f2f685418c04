"""Fingerprints: of plain data, and comparisons that refuse to resume or to build on content that has changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kdnas_env.errors import RunError
from kdnas_env.support.untrusted import shown

_FINGERPRINT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def fingerprint_of(data: Any) -> str:
    """Return the SHA-256 (hex) of plain data; the order of names in mappings does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the differences between two descriptions of content; only names in both are compared.

    Args:
        before: The recorded description: plain data by name. Nested mappings are compared entry by entry.
        now: The current description.

    Returns:
        Name, recorded value and current value of each difference; fingerprints are cut to 12 digits.
    """
    return [part for name in now if name in before for part in _differing(name, before[name], now[name])]


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], refusal: str, advice: str, *, since: str = "the run was started"
) -> None:
    """Refuse content that differs from the recorded content. Names that were not recorded are not checked.

    Args:
        before: See :func:`differences`.
        now: See :func:`differences`.
        refusal: Beginning of the message: what is refused.
        advice: End of the message: what the user can do instead.
        since: For the message: when the content was recorded.

    Raises:
        RunError: Naming all differences.
    """
    changed = differences(before, now)
    if changed:
        names = " and the ".join(name for name, _, _ in changed)
        was = "is not what it was" if len(changed) == 1 else "are not what they were"
        details = "; ".join(f"{name}: {new}, was {old}" for name, old, new in changed)
        raise RunError(
            f"{refusal}: the {names} {was} when {since} (another device, version, or content under the same name: "
            f"{details}); {advice}"
        )


def _differing(name: str, before: Any, now: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differing(f"{name} {key}", before.get(key), now.get(key))
    elif before != now:
        yield name, _short(before), _short(now)


def _short(value: Any) -> str:
    return shown(_FINGERPRINT.sub(r"\1", value) if isinstance(value, str) else value)
