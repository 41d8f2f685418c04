"""Building tables: the plan, the stored evaluations and latencies, and the merged table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tables import SPACE, planted_evaluations, planted_metadata

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import RunError, TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.support.atomic import write_json
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.table import CURVES, LATENCIES, LatencyDevice, Table
from kdnas_env.tabulation.build import (
    STORE,
    WORKLOAD,
    adopt_evaluations,
    adopt_latencies,
    adopt_table,
    check_name,
    is_table,
    parse_shard,
    planned_cells,
    planned_students,
    read_evaluations,
    record_workload,
)
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table
from kdnas_env.tabulation.latencies import LatencyFile, measure_latencies, model_latencies, modelled
from kdnas_env.tabulation.merge import merge_builds, order_devices, unite_devices
from kdnas_env.tabulation.verify import find_faults

PLANTED_SPACE = SearchSpace.from_dict(SPACE, PLANTED_TEACHER)
STUDENTS = planned_students(PLANTED_SPACE)
ANALYTIC = LatencyDevice("analytic", "a model", "analytic")
TORCH = LatencyDevice("torch", "a processor", "torch")
MODELLED = {student: modelled(ANALYTIC, student, PLANTED_TEACHER) for student in STUDENTS}


def test_a_plan_has_every_student_with_every_seed_one_seed_after_the_other() -> None:
    cells = planned_cells(STUDENTS, (4, 2))
    assert len(set(cells)) == len(cells) == 2 * 24
    assert [cell.seed for cell in cells] == [4] * 24 + [2] * 24
    assert [cell.student for cell in cells[:24]] == [cell.student for cell in cells[24:]] == STUDENTS
    order = np.random.default_rng(0).permutation(PLANTED_SPACE.valid_indices)
    assert STUDENTS[0] == PLANTED_SPACE.decode(PLANTED_SPACE.from_index(int(order[0])))


@given(parts=st.integers(1, 60))
def test_shards_are_the_whole_plan_in_equal_parts(parts: int) -> None:
    shards = [planned_cells(STUDENTS, (0, 1), (part, parts)) for part in range(1, parts + 1)]
    assert sorted(map(str, (cell for shard in shards for cell in shard))) == sorted(
        map(str, planned_cells(STUDENTS, (0, 1)))
    )
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "1/0", "-1/2", "a/b", "1/2/3", " 1/2", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(TableError, match="expected I/N with I from 1 to N"):
        parse_shard(text)
    assert parse_shard("2/3") == (2, 3)


@pytest.mark.parametrize("name", ["a/b", "..", "../up", "", ".hidden", "a\\b", "-flag", "two words", "new\nline"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(TableError, match="becomes a file name"):
        check_name(name)
    assert check_name("rotten-tomatoes_v1.0") == "rotten-tomatoes_v1.0"


class Answers:
    """Evaluates by looking up known evaluations, to fill a store."""

    deterministic = True

    def __init__(self, workload: str, evaluations: Iterable[Evaluation]) -> None:
        self.fingerprint = workload
        self.known = {(one.config, one.fidelity): one for one in evaluations}

    def evaluate(
        self, configs: Iterable[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        return [self.known[config, fidelity] for config in configs]


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes the folder of a build from evaluations and latencies by device."""

    def made(
        name: str, evaluations: list[Evaluation], latencies: dict[LatencyDevice, Any] | None = None, **changes: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        seeds = sorted({one.fidelity.seed for one in evaluations})
        meta = replace(planted_metadata(PLANTED_SPACE, seeds=seeds), devices=(), **changes)
        record_workload(folder, meta)
        with StoredEvaluator(Answers(meta.workload, evaluations), folder / STORE) as store:
            for one in evaluations:
                store.evaluate([one.config], one.fidelity)
        for device, values in ({ANALYTIC: MODELLED} if latencies is None else latencies).items():
            LatencyFile.open(folder, device).append(values)
        return folder

    return made


EVALUATIONS = planted_evaluations(PLANTED_SPACE, noise=0.02)


def same(one: Table, other: Table) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name in ("curves", "latencies"))
        for name in Table.ARRAYS
    )


def test_parts_together_are_the_whole(make: Make) -> None:
    whole = merge_builds([make("whole", EVALUATIONS)])
    parts = [make(f"part{k}", EVALUATIONS[k::3] + EVALUATIONS[:5]) for k in range(3)]
    merged = merge_builds(parts)
    assert merged.complete == 1
    assert same(whole, merged)
    assert whole.metadata == merged.metadata
    assert whole.metadata.noise["tau"][-1] > 0.8
    assert merge_builds(parts[:2]).complete == pytest.approx(49 / 72)
    assert not find_faults(whole)
    assert not find_faults(merge_builds(parts[:2]))


def test_the_store_may_hold_other_evaluations_too(make: Make) -> None:
    others = [replace(one, fidelity=Fidelity(epochs=2)) for one in planted_evaluations(PLANTED_SPACE, epochs=2)]
    folder = make("mixed", [*others, *EVALUATIONS])
    assert same(merge_builds([folder]), merge_builds([make("whole", EVALUATIONS)]))


@pytest.mark.parametrize(
    "changes", [{"workload": "1" * 64}, {"space": {**SPACE, "hidden_act": ["gelu", "silu"]}}, {"recipe": {"ridge": 1}}]
)
def test_other_workloads_cannot_be_merged(changes: dict[str, Any], make: Make) -> None:
    one, other = make("one", EVALUATIONS[:3]), make("other", EVALUATIONS[:3], **changes)
    (name,) = changes
    with pytest.raises(TableError, match=f"one' and .*other' cannot be merged: {name} is .* in the one and .* in the"):
        merge_builds([one, other])


def test_other_epochs_cannot_be_merged(make: Make) -> None:
    one, other = make("one", EVALUATIONS[:3]), make("other", EVALUATIONS[:3], epochs=2)
    with pytest.raises(TableError, match="epochs is 3 in the one and 2 in the other"):
        merge_builds([one, other])


def test_cells_that_disagree_are_named(make: Make) -> None:
    first = EVALUATIONS[0]
    near = replace(first, heldout_loss=tuple(1.00001 * value for value in first.heldout_loss))
    far = replace(first, heldout_loss=tuple(1.001 * value for value in first.heldout_loss))
    folder = make("first", EVALUATIONS)
    merged = merge_builds([folder, make("near", [near])])
    assert same(merged, merge_builds([folder]))
    with pytest.raises(TableError, match=f"disagree about {first.config} with seed 0"):
        merge_builds([folder, make("far", [far])])


def test_what_is_no_build(make: Make, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="nothing to merge"):
        merge_builds([])
    with pytest.raises(RunError, match=f"has no {WORKLOAD}"):
        merge_builds([tmp_path])
    folder = make("empty", EVALUATIONS[:1])
    (folder / STORE).write_bytes(b"not a database, by any means")
    with pytest.raises(RunError, match="damaged or not a SQLite file"):
        merge_builds([folder])
    (folder / STORE).unlink()
    with pytest.raises(RunError, match=f"has no {STORE}"):
        merge_builds([folder])
    write_json(folder / WORKLOAD, {"name": "x"})
    with pytest.raises(TableError, match="malformed"):
        merge_builds([folder])


def test_a_build_goes_on_with_its_own_workload_only(make: Make) -> None:
    folder = make("build", EVALUATIONS[:1])
    meta = planted_metadata(PLANTED_SPACE)
    record_workload(folder, meta)
    with pytest.raises(RunError, match=r"cannot be resumed: the workload is not what it was .*was '000000000000'"):
        record_workload(folder, replace(meta, workload="2" * 64))


def test_latencies_of_one_device_are_united_and_of_others_kept_apart() -> None:
    first, second = STUDENTS[:2]
    other = replace(TORCH, machine="another processor")
    slow = replace(MODELLED[first], median_ms=1e3)
    united = unite_devices(
        [
            MeasuredLatencies(TORCH, {first: MODELLED[first]}),
            MeasuredLatencies(other, {first: slow}),
            MeasuredLatencies(TORCH, {first: slow, second: MODELLED[second]}),
        ]
    )
    assert [one.device for one in united] == [TORCH, replace(other, name="torch-2")]
    assert united[0].latencies == {first: MODELLED[first], second: MODELLED[second]}
    assert united[1].latencies == {first: slow}


def test_whole_devices_come_first_and_the_model_last() -> None:
    onnx = LatencyDevice("onnxruntime", "a processor", "onnxruntime")
    some = dict(list(MODELLED.items())[:3])

    def order(*devices: tuple[LatencyDevice, Any]) -> list[str]:
        ordered = order_devices([MeasuredLatencies(*one) for one in devices], set(STUDENTS))
        return [one.device.name for one in ordered]

    assert order((ANALYTIC, MODELLED), (onnx, MODELLED), (TORCH, MODELLED)) == ["torch", "onnxruntime", "analytic"]
    assert order((ANALYTIC, MODELLED), (TORCH, some), (onnx, MODELLED)) == ["onnxruntime", "analytic", "torch"]


def test_a_device_may_lack_students(make: Make) -> None:
    some = dict(list(MODELLED.items())[:3])
    table = merge_builds([make("build", EVALUATIONS, {ANALYTIC: MODELLED, TORCH: some})])
    assert [device.name for device in table.metadata.devices] == ["analytic", "torch"]
    assert np.isfinite(table.latencies[:, 1]).all(axis=-1).sum() == 3


def test_a_latency_outside_of_the_space_is_refused() -> None:
    stranger = StudentConfig(1, 1, 8, 8)
    with pytest.raises(TableError, match="not a valid student of the table's space"):
        assemble_table(
            planted_metadata(PLANTED_SPACE),
            EVALUATIONS,
            [MeasuredLatencies(ANALYTIC, {**MODELLED, stranger: MODELLED[STUDENTS[0]]})],
        )


def filled(folder: Path, count: int) -> LatencyFile:
    file = LatencyFile.open(folder, TORCH)
    for student in STUDENTS[:count]:
        file.append({student: MODELLED[student]})
    return file


def test_latencies_are_kept_line_by_line(tmp_path: Path) -> None:
    file = filled(tmp_path, 3)
    lines = file.path.read_text().splitlines()
    assert json.loads(lines[0]) == asdict(TORCH)
    assert len(lines) == 4
    found = LatencyFile.open(tmp_path, TORCH)
    assert (found.path, found.latencies) == (file.path, {student: MODELLED[student] for student in STUDENTS[:3]})


@given(cut=st.integers(0, 10_000))
def test_a_line_that_was_cut_short_is_dropped_and_written_over(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    file = filled(folder, 3)
    data = file.path.read_bytes()
    left = data[: cut % len(data)]
    file.path.write_bytes(left)
    again = LatencyFile.open(folder, TORCH)
    assert again.path == file.path
    assert len(again.latencies) == max(0, left.count(b"\n") - 1)
    for student in STUDENTS[:3]:
        if student not in again.latencies:
            again.append({student: MODELLED[student]})
    assert file.path.read_bytes() == data


def test_another_machine_has_a_file_of_its_own(tmp_path: Path) -> None:
    first = filled(tmp_path, 1)
    second = LatencyFile.open(tmp_path, replace(TORCH, machine="another processor"))
    second.append({STUDENTS[0]: MODELLED[STUDENTS[0]]})
    assert (first.path.name, second.path.name) == ("torch.jsonl", "torch-2.jsonl")
    assert LatencyFile.open(tmp_path, TORCH).path == first.path
    assert LatencyFile.open(tmp_path, replace(TORCH, threads=2)).path.name == "torch-3.jsonl"


@pytest.mark.parametrize(
    "line", ["{}", "no JSON", '{"config": {"depth": 3}}', "[]", "[" * 100_000, '{"config": 1e999}']
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    file = filled(tmp_path, 1)
    with file.path.open("a") as out:
        out.write(line + "\n")
    with pytest.raises(RunError, match=r"torch\.jsonl' hold a damaged line .*delete the file"):
        LatencyFile.open(tmp_path, TORCH)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", "a/b", ""])
def test_a_device_cannot_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="the name of a device is"):
        replace(TORCH, name=name)
    file = filled(tmp_path, 1)
    file.path.write_text(json.dumps({**asdict(TORCH), "name": name}) + "\n")
    with pytest.raises(RunError, match=r"hold a damaged line .*the name of a device is"):
        LatencyFile.open(tmp_path, TORCH)


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dirs: dict[str, Path]) -> Teacher:
    return load_teacher(tiny_teacher_dirs["bert"])


def test_what_was_measured_is_not_measured_again(teacher: Teacher, tmp_path: Path) -> None:
    space = SearchSpace.from_dict({"num_hidden_layers": [1, 3], "hidden_size": [16, 32]}, teacher.architecture)
    students = planned_students(space)
    probe = LatencyProbe(teacher.model, teacher.architecture, LatencySettings(max_rounds=5, sequence_length=16))
    device = replace(TORCH, sequence_length=16)
    heard: list[tuple[int, int]] = []

    def measure(some: list[StudentConfig]) -> dict[StudentConfig, Latency]:
        file = LatencyFile.open(tmp_path, device)
        assert measure_latencies(file, some, probe, teacher, lambda done, total: heard.append((done, total))) == []
        return file.latencies

    first = measure(students[:2])
    assert heard == [(0, 2), (1, 2), (2, 2)]
    heard.clear()
    found = measure(students)
    assert heard == [(2, 4), (3, 4), (4, 4)]
    assert {student: found[student] for student in students[:2]} == first
    by_depth = {student.num_hidden_layers: found[student].ratio for student in students if student.hidden_size == 32}
    assert 0 < by_depth[1] < by_depth[3]


def test_a_student_that_cannot_be_timed_is_told_and_tried_again(teacher: Teacher, tmp_path: Path) -> None:
    class Refusing(LatencyProbe):
        def measure(self, model: Any, student: StudentConfig, **options: Any) -> Latency:
            raise MemoryError("no room")

    space = SearchSpace.from_dict({"num_hidden_layers": [1, 3]}, teacher.architecture)
    probe = Refusing(None, teacher.architecture, LatencySettings(runtime="analytic"))
    file = LatencyFile.open(tmp_path, TORCH)
    failures = measure_latencies(file, planned_students(space), probe, teacher, lambda done, total: None)
    assert len(failures) == 2
    assert "MemoryError: no room" in failures[0]
    assert not file.latencies


def test_modelled_latencies_are_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        model_latencies(LatencyFile.open(tmp_path, ANALYTIC), STUDENTS, PLANTED_TEACHER)
    found = LatencyFile.open(tmp_path, ANALYTIC)
    assert found.latencies == MODELLED
    assert len(found.path.read_text().splitlines()) == 25


def test_a_store_is_adopted_while_it_is_written_to(make: Make, tmp_path: Path) -> None:
    source = make("source", EVALUATIONS[:4])
    target = tmp_path / "target"
    target.mkdir()
    with StoredEvaluator(Answers("0" * 64, EVALUATIONS), source / STORE) as writing:
        writing.evaluate([EVALUATIONS[5].config], EVALUATIONS[5].fidelity)
        adopt_evaluations(source / STORE, target)
    found = read_evaluations(target, "0" * 64)
    assert found == [*EVALUATIONS[:4], EVALUATIONS[5]]
    # An existing store is not replaced.
    adopt_evaluations(make("other", EVALUATIONS[:1]) / STORE, target)
    assert read_evaluations(target, "0" * 64) == found
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with pytest.raises(RunError, match="there is no store"):
        adopt_evaluations(tmp_path / "nothing", fresh)
    (tmp_path / "text").write_text("by no means a database" * 100)
    with pytest.raises(RunError, match="cannot be copied"):
        adopt_evaluations(tmp_path / "text", fresh)
    assert not (fresh / STORE).exists()


def test_a_build_goes_on_where_a_table_ends(make: Make, tmp_path: Path) -> None:
    """The file of a table is enough to continue its build: the merged table equals that of one build."""
    write_table(merge_builds([make("first", EVALUATIONS[:7], {ANALYTIC: MODELLED})]), tmp_path / "first.npz")
    further = make("further", EVALUATIONS[7:9], {ANALYTIC: MODELLED})
    adopt_table(tmp_path / "first.npz", further)  # the store of a build is never replaced
    assert len(read_evaluations(further, "0" * 64)) == 2
    (further / STORE).unlink()
    adopt_table(tmp_path / "first.npz", further)
    found = read_evaluations(further, "0" * 64)
    assert {(one.config, one.fidelity) for one in found} == {(one.config, one.fidelity) for one in EVALUATIONS[:7]}
    rest = make("rest", EVALUATIONS[7:9], {ANALYTIC: MODELLED})
    joined, whole = (
        merge_builds([folder, rest]) for folder in (further, make("whole", EVALUATIONS[:7], {ANALYTIC: MODELLED}))
    )
    assert np.array_equal(joined.curves, whole.curves, equal_nan=True)
    assert np.array_equal(joined.status, whole.status)
    other = make("other", [], {ANALYTIC: MODELLED}, workload="1" * 64, recipe={"batch_size": 4})
    (other / STORE).unlink()
    with pytest.raises(TableError, match="recipe is"):
        adopt_table(tmp_path / "first.npz", other)
    assert is_table("rotten-tomatoes")
    assert is_table(tmp_path / "first.npz")
    assert not is_table(further / STORE)


def test_latencies_are_adopted_from_a_build_under_the_same_teacher(make: Make) -> None:
    one, other = make("one", EVALUATIONS[:1], {ANALYTIC: MODELLED, TORCH: MODELLED}), make("other", EVALUATIONS[:1])
    adopt_latencies(one, other)
    assert LatencyFile.open(other, TORCH).latencies == MODELLED
    elsewhere = make("elsewhere", EVALUATIONS[:1], teacher="the same in another folder")
    adopt_latencies(one, elsewhere)
    assert LatencyFile.open(elsewhere, TORCH).latencies == MODELLED
    architecture = {**planted_metadata(PLANTED_SPACE).architecture, "vocab_size": 5}
    stranger = make("stranger", EVALUATIONS[:1], teacher="somebody else", architecture=architecture)
    with pytest.raises(RunError, match="teacher 'planted', whose architecture differs from 'somebody else'"):
        adopt_latencies(one, stranger)


@pytest.fixture(scope="module")
def sound() -> Table:
    return assemble_table(planted_metadata(PLANTED_SPACE), EVALUATIONS, [MeasuredLatencies(ANALYTIC, MODELLED)])


@pytest.mark.parametrize(
    ("array", "place", "value", "message"),
    [
        ("parameters", 3, 5, "parameters of 1 students are wrong, such as 5 of"),
        ("flops", 3, 5, "flops of 1 students are wrong"),
        ("curves", (2, 1, 3, CURVES.index("heldout_loss")), 0, "heldout_loss is not positive in .* after epoch 3"),
        ("curves", (2, 1, 3, CURVES.index("train_unexplained")), 40, "train_unexplained is above 10"),
        ("curves", (2, 1, 1, CURVES.index("epoch_seconds")), 0, "epoch_seconds is not positive"),
        (
            "curves",
            (2, 1, 2, CURVES.index("epoch_seconds")),
            1e5,
            "far longer with one seed .*: 10.* s; the machine slept",
        ),
        ("curves", (2, 1, 3, CURVES.index("heldout_unexplained")), 0.9, "noise ceiling in its JSON file does"),
        ("latencies", (4, 0, LATENCIES.index("ratio")), 0.77, "latencies do not match the analytic model"),
        ("latencies", (4, 0, LATENCIES.index("teacher_median_ms")), 1e4, "the machine was busy during the measurement"),
    ],
)
def test_faults_are_found(array: str, place: Any, value: float, message: str, sound: Table) -> None:
    assert find_faults(sound) == []
    changed = getattr(sound, array).copy()
    changed[place] = value
    faults = find_faults(replace(sound, **{array: changed}))
    assert any(re.search(message, fault) for fault in faults), faults


def test_a_table_without_some_students_is_faulty(sound: Table) -> None:
    arrays = {name: getattr(sound, name)[:-1] for name in Table.ARRAYS}
    assert any("are not the 24 valid ones of its space" in fault for fault in find_faults(replace(sound, **arrays)))
