"""The section of the HTML report that is made of `segkit bench peers`: how many times as long others take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segkit_benchmarks.html_report_files import PeersFile, PeersFloor, PeersPart, PeersRatio, PeersRow
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
from segkit_benchmarks.peers.report import EQUAL

_WORDS = {"start": "process start to the first patch", "run": "a stripped head, from files to file"}
"""Parts that have a word for a name."""

_VERDICTS = {"reached": ("✓ reached", "good"), "not reached": ("✗ not reached", "bad")}


def peers_section(files: Sequence[PeersFile]) -> Section:
    """Ratios of others' time and memory to ours, with intervals and floors."""
    title = "The same work by others"
    if not files:
        return Section(
            name="peers",
            title=title,
            missing="No other software was measured here.",
            command="segkit bench peers --out DIR",
        )
    lead = (
        "How many times as long another takes as segkit, and how much more memory. Each side runs in a process of its "
        "own; ratios are taken round by round, and lines span the least and the most of the rounds. "
        f"A ratio counts where at least {EQUAL:.0%} of the voxels have the same label."
    )
    blocks = [block for number, file in enumerate(files, start=1) for block in _blocks(number, file)]
    return Section(name="peers", title=title, lead=lead, blocks=blocks)


def _blocks(number: int, file: PeersFile) -> Iterator[Block]:
    sides = list(dict.fromkeys(ratio.ours for part in _parts(file) for ratio in part.ratios))
    memory = [ratio for part in _parts(file) for ratio in _memories(file, part)]
    for name, title, label, ratios in (
        ("volume", "Whole volumes", TIME, [ratio for part in file.volumes for ratio in _times(file, part)]),
        ("start", "Process start", TIME, _times(file, file.start)),
        ("run", "Whole runs", TIME, _times(file, file.run)),
        ("memory", "Peak memory", "times as much memory as segkit", memory),
    ):
        if ratios:
            yield ratio_figure(f"peers-{number}-{name}", title, label, ratios, sides)
    yield _floors(file)
    yield _measured(file)


def _times(file: PeersFile, part: PeersPart | None) -> list[Ratio]:
    if part is None:
        return []
    return [
        _ratio(file, part, ratio, "seconds", ratio.seconds.median, (ratio.seconds.least, ratio.seconds.most))
        for ratio in part.ratios
    ]


def _memories(file: PeersFile, part: PeersPart) -> list[Ratio]:
    return [_ratio(file, part, ratio, "memory", ratio.memory, None) for ratio in part.ratios if ratio.memory]


def _ratio(
    file: PeersFile,
    part: PeersPart,
    ratio: PeersRatio,
    figure: str,
    value: float,
    interval: tuple[float, float] | None,
) -> Ratio:
    """A ratio with its floor, which is of the faster of what a peer does in fp32 and in bf16."""
    peer = ratio.peer.removesuffix(", bf16")
    floors = (f.least for f in file.floors if (f.part, f.peer, f.figure) == (part.part, peer, figure))
    differ = ratio.same_labels is not None and ratio.same_labels < EQUAL
    return Ratio(
        work=_words(part.part),
        ours=ratio.ours,
        peer=ratio.peer,
        value=value,
        interval=interval,
        floor=next(floors, None),
        remark="labels differ" if differ else "",
        same_labels=ratio.same_labels,
    )


def _floors(file: PeersFile) -> Table:
    return Table(
        caption="Floors: what was asked for, and what came of it",
        columns=[
            Column(title="work", figures=False),
            Column(title="beside", figures=False),
            Column(title="of", figures=False),
            Column(title="floor"),
            Column(title="predicted in fp32"),
            Column(title="measured"),
            Column(title="with", figures=False),
            Column(title="verdict", figures=False),
        ],
        rows=[
            [
                text_cell(_words(floor.part)),
                text_cell(floor.peer),
                text_cell(floor.figure),
                significant_cell(floor.least),
                significant_cell(floor.predicted_fp32),
                significant_cell(floor.ratio),
                text_cell(floor.ours),
                _verdict(floor),
            ]
            for floor in file.floors
        ],
        notes=["Ours and theirs are the fastest that leave nothing out."],
    )


def _verdict(floor: PeersFloor) -> Cell:
    if floor.verdict not in _VERDICTS:
        return reason_cell(floor.verdict)
    text, kind = _VERDICTS[floor.verdict]
    return text_cell(text, kind=kind)


def _measured(file: PeersFile) -> Table:
    machine = file.machine
    versions = ", ".join(f"{name} {version}" for name, version in file.versions.items())
    quick = "A quick run: it shows that all runs, not how fast. " if file.quick else ""
    return Table(
        caption="What each side took",
        columns=[
            Column(title="side", figures=False),
            Column(title="work", figures=False),
            Column(title="median", unit="s"),
            Column(title="patches"),
            Column(title="Mvoxel/s"),
            Column(title="GFLOP/s"),
            Column(title="of GEMM peak", unit="%"),
            Column(title="memory", unit="MiB"),
        ],
        rows=[_measured_row(part, row) for part in _parts(file) for row in part.rows],
        notes=[
            f"{quick}Rounds of all sides in turn: {file.rounds}.",
            f"Machine: {machine.get('cpu')}, {file.threads} threads.",
            f"Versions: {versions or NOTHING}.",
        ],
    )


def _measured_row(part: PeersPart, row: PeersRow) -> list[Cell]:
    span = row.seconds
    return [
        text_cell(row.side),
        text_cell(_words(part.part)),
        significant_cell(span.median, note=range_text(span.least, span.most))
        if span
        else reason_cell(f"not measured: {row.failed}"),
        figure_cell(row.patches, 0),
        significant_cell(row.mvoxels_per_second),
        significant_cell(row.gflops_per_second),
        figure_cell(row.gemm_share, 0, scale=100),
        figure_cell(row.peak_mib, 0),
    ]


def _parts(file: PeersFile) -> list[PeersPart]:
    return [*file.volumes, *(part for part in (file.start, file.run) if part)]


def _words(part: str) -> str:
    return _WORDS.get(part, part)
