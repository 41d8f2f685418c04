"""Latencies of a table's students: measured once per student and device, separately from the losses."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Latency
from kdnas_env.errors import LatencyError, RunError
from kdnas_env.support.progress import OnProgress
from kdnas_env.support.untrusted import parse_json, restore
from kdnas_env.tables.table import LatencyDevice
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies

if TYPE_CHECKING:
    from kdnas_env.distillation.teacher.loading import Teacher
    from kdnas_env.latency import LatencyProbe

FOLDER = "latencies"
"""Subfolder of a build folder for the latency files."""


@dataclass(eq=False)
class LatencyFile:
    """Latencies on one device: an append-only file of JSON lines.

    The first line is the device; every other line is a student and its latency. An incomplete last line, left by a
    killed process, is ignored and then overwritten.

    Attributes:
        path: The file.
        device: The device.
        latencies: Measured latencies, by architecture.
    """

    path: Path
    device: LatencyDevice
    latencies: dict[StudentConfig, Latency] = field(default_factory=dict)
    _end: int = 0

    @classmethod
    def read(cls, path: Path) -> LatencyFile | None:
        """Read a file; None if even its first line is incomplete.

        Raises:
            RunError: If the file cannot be read, or a complete line is damaged.
        """
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise RunError(f"latencies {str(path)!r} cannot be read: {error}") from error
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        if not lines:
            return None
        try:
            first, *others = (parse_json(line) for line in lines)
            file = cls(path, restore(LatencyDevice, first), _end=sum(map(len, lines)))
            for entry in others:
                config = StudentConfig.from_dict(entry.pop("config"))
                file.latencies.setdefault(config, restore(Latency, entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"latencies {str(path)!r} hold a damaged line ({error}); delete the file to measure again"
            ) from error
        return file

    @classmethod
    def open(cls, folder: Path, device: LatencyDevice) -> LatencyFile:
        """Return the file of a device in a build folder; create it if it does not exist.

        Raises:
            RunError: If a file in the folder cannot be read.
        """
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        taken = set()
        for path in sorted(place.glob("*.jsonl")):
            file = cls.read(path)
            if file is not None and file.device == device:
                return file
            if file is not None:
                taken.add(path)
        # The file of this name belongs to another machine or to other settings.
        names = (device.name if number == 1 else f"{device.name}-{number}" for number in range(1, len(taken) + 2))
        return cls(next(path for name in names if (path := place / f"{name}.jsonl") not in taken), device)

    def append(self, latencies: Mapping[StudentConfig, Latency]) -> None:
        """Append latencies; they are on disk when this returns.

        Raises:
            RunError: If the file cannot be written.
        """
        entries: list[dict[str, Any]] = [] if self._end else [asdict(self.device)]
        entries += [{"config": config.to_dict(), **asdict(latency)} for config, latency in latencies.items()]
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"latencies {str(self.path)!r} cannot be written: {error}") from error
        self._end += len(text)
        self.latencies.update(latencies)


def read_all_latencies(folder: Path) -> list[MeasuredLatencies]:
    """Return the measured latencies in a build folder, by device.

    Raises:
        RunError: If a file cannot be read or is damaged.
    """
    files = [LatencyFile.read(path) for path in sorted((folder / FOLDER).glob("*.jsonl"))]
    return [MeasuredLatencies(file.device, file.latencies) for file in files if file is not None and file.latencies]


def measure_latencies(
    file: LatencyFile,
    students: Sequence[StudentConfig],
    probe: LatencyProbe,
    teacher: Teacher,
    on_progress: OnProgress,
) -> list[str]:
    """Measure students without a latency, with random weights, and write every latency at once.

    Args:
        file: File for the latencies.
        students: The students, in order.
        probe: The latency probe.
        teacher: Architecture of the students' teacher.
        on_progress: Called with the number of measured students and the total.

    Returns:
        Messages on the students that could not be measured; the next call tries them again.

    Raises:
        RunError: If the file cannot be written.
    """
    from kdnas_env.distillation.student.building import build_student, special_tokens
    from kdnas_env.errors import is_out_of_memory, one_line

    missing = [student for student in students if student not in file.latencies]
    before, special, failures = len(students) - len(missing), special_tokens(teacher), []
    on_progress(before, len(students))
    for done, student in enumerate(missing, 1):
        try:
            # Latency does not depend on the weights, so no distillation is needed.
            model = build_student(student, teacher.architecture, seed=0, special=special)
            file.append({student: probe.measure(model, student)})
        except Exception as error:
            if not (isinstance(error, LatencyError) or is_out_of_memory(error)):
                raise
            failures.append(f"{student}: {one_line(error)}")
        on_progress(before + done, len(students))
    return failures


def model_latencies(file: LatencyFile, students: Sequence[StudentConfig], teacher: EncoderArchitecture) -> None:
    """Write the modelled latencies of students.

    Raises:
        RunError: If the file cannot be written.
    """
    missing = [student for student in students if student not in file.latencies]
    if missing:
        file.append({student: modelled(file.device, student, teacher) for student in missing})


def modelled(device: LatencyDevice, student: StudentConfig, teacher: EncoderArchitecture) -> Latency:
    """Return the modelled latency of a student at a device's batch size and sequence length."""
    from kdnas_env.latency import LatencySettings
    from kdnas_env.latency.analytic import analytic_latency

    settings = LatencySettings(
        runtime="analytic",
        batch_size=device.batch_size,
        sequence_length=device.sequence_length,
        threads=device.threads,
    )
    return analytic_latency(student, teacher, settings)
