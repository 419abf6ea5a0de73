"""Sections of the HTML report that are made of `segkit bench training` and `segkit bench io`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkit.volume import format_size
from segkit_benchmarks.html_report_files import (
    IoFile,
    IoRow,
    Range,
    TrainingFile,
    TrainingPatches,
    TrainingPatchesRow,
    TrainingRatio,
    TrainingStepsRow,
)
from segkit_benchmarks.html_report_parts import (
    NOTHING,
    Block,
    Cell,
    Column,
    Section,
    Table,
    figure_cell,
    range_text,
    reason_cell,
    significant_cell,
    text_cell,
)
from segkit_benchmarks.html_report_ratios import TIME, Ratio, ratio_figure

_FIRST_PATCH = {"first_patch_seconds": "first patch", "prepare_and_first_patch_seconds": "with making the store"}


def training_section(files: Sequence[TrainingFile]) -> Section:
    """Drawing patches and training steps, beside others."""
    title = "Training beside others"
    if not files:
        return Section(
            name="training",
            title=title,
            missing="No training patches or steps were measured here.",
            command="segkit bench training --out DIR",
        )
    lead = (
        "Patches are drawn in batches of one, and by one thread where nothing else is said. Each side runs in a "
        "process of its own; ratios are taken round by round, and lines span the least and the most of the rounds."
    )
    blocks = [block for number, file in enumerate(files, start=1) for block in _training(f"training-{number}", file)]
    return Section(name="training", title=title, lead=lead, blocks=blocks)


def _training(name: str, file: TrainingFile) -> Iterator[Block]:
    if file.patches:
        ratios = [_training_ratio(ratio, f"patches of {ratio.work}") for ratio in file.patches.ratios]
        if ratios:
            yield ratio_figure(f"{name}-patches", "Training patches", TIME, ratios, _sides(ratios))
        yield _patches_table(file, file.patches)
    if file.steps:
        ratios = [_training_ratio(ratio, f"a step of {ratio.work}") for row in file.steps for ratio in row.ratios]
        if ratios:
            yield ratio_figure(f"{name}-steps", "Training steps", TIME, ratios, _sides(ratios))
        yield _steps_table(file)


def _training_ratio(ratio: TrainingRatio, work: str) -> Ratio:
    found = ratio.ratio
    return Ratio(
        work=work,
        ours=ratio.ours,
        peer=ratio.peer,
        value=found.median,
        interval=(found.least, found.most),
        floor=ratio.floor,
    )


def _patches_table(file: TrainingFile, patches: TrainingPatches) -> Table:
    sizes = list(dict.fromkeys(size for row in patches.rows for size in row.patches_per_second))
    return Table(
        caption="Patches that each side draws",
        columns=[
            Column(title="side", figures=False),
            *(Column(title=size, group="patches a second") for size in sizes),
            *(Column(title=words, unit="s", group="to the first") for words in _FIRST_PATCH.values()),
            Column(title="memory", unit="MiB"),
        ],
        rows=[_patches_row(row, sizes) for row in patches.rows],
        notes=_notes(file.machine, file.versions, file.repeats),
    )


def _patches_row(row: TrainingPatchesRow, sizes: Sequence[str]) -> list[Cell]:
    rates = [_spread_cell(row.patches_per_second.get(size), row.failed) for size in sizes]
    firsts = [significant_cell(row.seconds.get(key)) for key in _FIRST_PATCH]
    return [text_cell(row.side), *rates, *firsts, figure_cell(row.peak_mib, 0)]


def _steps_table(file: TrainingFile) -> Table:
    return Table(
        caption="Training steps of each side",
        columns=[
            Column(title="network", figures=False),
            Column(title="input", figures=False),
            Column(title="side", figures=False),
            Column(title="a step", unit="s"),
            Column(title="memory", unit="MiB"),
        ],
        rows=[_steps_row(row) for row in file.steps],
        notes=_notes(file.machine, file.versions, file.repeats),
    )


def _steps_row(row: TrainingStepsRow) -> list[Cell]:
    return [
        text_cell(row.model),
        text_cell(row.input),
        text_cell(row.side),
        _spread_cell(row.seconds, row.failed),
        figure_cell(row.peak_mib, 0),
    ]


def io_section(files: Sequence[IoFile]) -> Section:
    """Reading an image and writing labels, beside others."""
    title = "Reading and writing images"
    if not files:
        return Section(
            name="io",
            title=title,
            missing="No reading and writing of images was measured here.",
            command="segkit bench io --out DIR",
        )
    lead = "A stripped head of int16 is read from .nii.gz until its voxels are in memory, and its labels are written."
    blocks = [block for number, file in enumerate(files, start=1) for block in _io(f"io-{number}", file)]
    return Section(name="io", title=title, lead=lead, blocks=blocks)


def _io(name: str, file: IoFile) -> Iterator[Block]:
    ratios = [
        Ratio(
            work=work,
            ours="segkit",
            peer=row.side,
            value=found.median,
            interval=(found.least, found.most),
            floor=found.floor,
        )
        for work in ("read", "write")
        for row in file.rows
        if (found := row.read_ratio if work == "read" else row.write_ratio)
    ]
    if ratios:
        yield ratio_figure(f"{name}-ratios", "Reading and writing", TIME, ratios, _sides(ratios))
    yield Table(
        caption=f"An image of {format_size(file.size)}, {file.image_kb:,.0f} kB packed",
        columns=[
            Column(title="side", figures=False),
            Column(title="read", unit="ms"),
            Column(title="write", unit="ms"),
            Column(title="labels", unit="kB"),
            Column(title="memory", unit="MiB"),
        ],
        rows=[_io_row(row) for row in file.rows],
        notes=_notes(file.machine, file.versions, file.rounds),
    )


def _io_row(row: IoRow) -> list[Cell]:
    return [
        text_cell(row.side),
        *(reason_cell(_why(row.failed)) if row.failed else significant_cell(ms) for ms in (row.read_ms, row.write_ms)),
        figure_cell(row.labels_kb, 1),
        figure_cell(row.peak_mib, 0),
    ]


def _spread_cell(spread: Range | None, failed: str | None) -> Cell:
    if failed:
        return reason_cell(_why(failed))
    return significant_cell(
        spread.median if spread else None, note=range_text(spread.least, spread.most) if spread else ""
    )


def _why(failed: str) -> str:
    return f"not measured: {failed}"


def _sides(ratios: Sequence[Ratio]) -> list[str]:
    return list(dict.fromkeys(ratio.ours for ratio in ratios))


def _notes(machine: Mapping[str, Any], versions: Mapping[str, str], rounds: int) -> list[str]:
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"Rounds of all sides in turn: {rounds}. Machine: {machine.get('cpu')}, {machine.get('cores')} cores.",
        f"Versions: {listed or NOTHING}.",
    ]
