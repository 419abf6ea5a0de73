"""`segkit report DIR --html`: everything a folder of results holds, as one HTML file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.errors import SegkitError, UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit.run import Run
from segkit_benchmarks.html_report_parts import Column, Section, Table, text_cell
from segkit_benchmarks.html_report_peers import peers_section
from segkit_benchmarks.html_report_pictures import TITLE, pictures_section
from segkit_benchmarks.html_report_plots import latency_section, memory_section, roofline_section
from segkit_benchmarks.html_report_results import Results, TrainedRun, find_results
from segkit_benchmarks.html_report_speed import io_section, training_section
from segkit_benchmarks.html_report_svg import swatch
from segkit_benchmarks.html_report_table1 import table1_section
from segkit_benchmarks.html_report_training import (
    curves_section,
    dsc_section,
    evaluation_section,
    exports_section,
    profiles_section,
)
from segkit_benchmarks.predictions import Predictions, predict
from segkit_benchmarks.table1_result import Row
from segkit_benchmarks.viewer import ERROR_COLOUR, NIIVUE_COMMAND, Scene, find_niivue, make_scene, pack_script

MOST_BYTES = 6_000_000
"""Of the whole page: one that can be sent by mail, and opens at once."""

_LEAST_VOLUME_BYTES = 500_000
"""What the volumes may take however long the tables are."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written: the file, its size, the sections in it, and what is missing: section -> why."""

    file: Path
    size_bytes: int
    sections: list[str]
    missing: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "file": str(self.file)}


def write_html(
    registry: Registry,
    folder: Path,
    out: Path | None = None,
    *,
    subject: str | None = None,
    device: str = "cpu",
    niivue: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the report of a folder.

    Args:
        registry: finds the network and the data set of the run that the viewer shows.
        folder: where results lie, down to a few folders deep.
        out: the file to write, or None for report.html in the folder.
        subject: what the viewer shows; None for the first that was held out.
        device: where torch runs.
        niivue: NiiVue's package, or None to look for node_modules.
        progress: called with the number of tiles of the shown volume that are done, and of all.

    Raises:
        UsageError: there is nothing to report, or the file cannot be written.
        DataError: a file of the folder is not what its command writes.
    """
    require("jinja2", "report", "segkit report --html")
    out = out or folder / "report.html"
    if out.suffix != ".html":
        raise UsageError(f"expected a file that ends with .html, got {out}", hint="name one with --out")
    results = find_results(folder)
    script = find_niivue(niivue)
    packed = pack_script(script) if script else ""
    sections = _sections(results)
    shown, seen = _predict(registry, results, subject, device, progress)
    at = [section.name for section in sections].index("scores") + 1  # figures first, then what they look like
    sections[at:at] = seen
    page = _Page(results, sections, packed)
    scene = None
    if shown:
        room = max(_LEAST_VOLUME_BYTES, MOST_BYTES - len(page.render(None).encode()) - 400_000)
        scene = make_scene(shown.found, shown.name, shown.dataset, room)
    html = page.render(scene).encode()
    write_bytes(out, html)
    missing = {section.name: section.missing for section in sections if section.missing}
    if scene and not script:
        missing["viewer"] = f"NiiVue is not installed: a picture is in its place. To have it: {NIIVUE_COMMAND}"
    return Written(
        file=out,
        size_bytes=len(html),
        sections=[section.name for section in sections if not section.missing],
        missing=missing,
    )


def _sections(results: Results) -> list[Section]:
    """All sections but those that show a head, in their order."""
    table = results.table1
    return [
        table1_section(table),
        latency_section(table, results.profiles),
        memory_section(table),
        roofline_section(table),
        peers_section(results.peers),
        training_section(results.training),
        io_section(results.io),
        dsc_section(results.dsc),
        evaluation_section(results.runs),
        curves_section(results.runs),
        exports_section(results.exports),
        profiles_section(results.profiles),
        *(_begun(run) for run in results.begun),
    ]


def _begun(run: str) -> Section:
    """A run of which there is nothing to show yet."""
    return Section(
        name=f"run {run}",
        title=f"Run {run}",
        missing="It has no epoch yet.",
        command="segkit train --resume --out RUN",
    )


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The run that the page shows a head of, and what its network makes of that head."""

    name: str
    dataset: str
    found: Predictions


def _predict(
    registry: Registry,
    results: Results,
    subject: str | None,
    device: str,
    progress: Callable[[int, int], None],
) -> tuple[_Shown | None, list[Section]]:
    """Run the network whose held-out Dice is best; also the sections that show it, or say what stands in its way."""
    titles = {"viewer": "A head, its truth, and the prediction", "pictures": TITLE}

    def without(why: str, command: str) -> tuple[None, list[Section]]:
        return None, [Section(name=name, title=title, missing=why, command=command) for name, title in titles.items()]

    if not results.runs:
        return without("No trained run in this folder.", "segkit train ... --out DIR/run")
    best = max(results.runs, key=_best_dice)
    try:
        run = Run.open(best.folder)
        found = predict(registry, run, subject, device, progress)
    except SegkitError as error:
        if subject:
            raise
        return without(f"{best.name}: {error}", "segkit report DIR --html")
    shown = _Shown(name=best.name, dataset=run.config.dataset.rpartition(":")[2], found=found)
    return shown, [Section(name="viewer", title=titles["viewer"]), pictures_section(best.name, found)]


def _best_dice(run: TrainedRun) -> float:
    return max(float(row["mean_dice"]) for row in run.epochs)


class _Page:
    """The page of some results, rendered once to learn its size and once with its scene."""

    def __init__(self, results: Results, sections: list[Section], script: str) -> None:
        self.results, self.sections, self.script = results, sections, script

    def render(self, scene: Scene | None) -> str:
        """The page; without a scene, as large as it is before the volumes are known."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("segkit_benchmarks"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        there = [section for section in self.sections if not section.missing]
        script = self.script if "viewer" in (section.name for section in there) else ""
        folder = self.results.folder.resolve().name
        return environment.get_template("report.html.j2").render(
            title=folder,
            version=__version__,
            meta=_meta(self.results),
            glance=list(_glance(self.results)),
            sections=there,
            missing=_missing([section for section in self.sections if section.missing]),
            column_class=_column_class,
            swatch=swatch,
            css=_asset("report.css"),
            js=_asset("report.js"),
            viewer_js=_asset("viewer.js"),
            script=script,
            scene=scene,
            volumes=scene.volumes if scene else (),
            scene_json=_scene_json(scene),
            notices=_asset("niivue-notices.txt") if script else "",
            error_colour=ERROR_COLOUR,
            niivue_command=NIIVUE_COMMAND,
        )


def _scene_json(scene: Scene | None) -> str:
    """Colours for the viewer's script; no name of a class can end the element that holds it."""
    colours = {"classes": scene.classes if scene else [], "error": ERROR_COLOUR}
    return json.dumps(colours).replace("<", "\\u003c")


def _meta(results: Results) -> list[str]:
    """When, with what, and on which machine."""
    meta = [f"made {date.today():%d %B %Y}", f"segkit {__version__}"]
    machine = results.table1.machine if results.table1 else next((file.machine for file in results.profiles), None)
    if machine:
        meta.append(f"{machine.get('cpu')}, {machine.get('cores')} cores")
    return meta


def _glance(results: Results) -> Iterator[tuple[str, str]]:
    """A figure and what it is, for the head of the page."""
    if results.table1:
        cells = [cell for row in results.table1.rows for cell in row.cells]
        measured = sum(cell.timing is not None for cell in cells)
        if cells:
            yield f"{measured} of {len(cells)}", "cells of Table 1 measured, the others with a reason"
        gains = [gain for row in results.table1.rows if (gain := _best_gain(row))]
        if gains:
            yield f"{max(gains)[0]:.1f} \N{MULTIPLICATION SIGN}", f"as fast as torch in fp32, at best: {max(gains)[1]}"
    rows = [row for file in results.exports for row in file.rows]
    if rows:
        proven = sum(row.status == "proven" for row in rows)
        held = sum(row.status in ("proven", "not proven") for row in rows)
        yield f"{proven} of {held}", "exports proven that were run against torch"
    scored = [run for run in results.runs if run.scores and run.scores.foreground_mean is not None]
    if scored:
        best = max(scored, key=lambda run: (run.scores and run.scores.foreground_mean) or 0.0)
        assert best.scores is not None  # noqa: S101 - chosen so
        yield (
            f"{100 * (best.scores.foreground_mean or 0):.1f} %",
            f"foreground Dice of {best.name}, whole held-out heads",
        )


def _best_gain(row: Row) -> tuple[float, str] | None:
    """How many times as fast as torch the fastest other runtime is in fp32, and what that is."""
    times = {cell.runtime: cell.timing.p50_ms for cell in row.cells if cell.timing and cell.precision == "fp32"}
    torch = times.pop("torch", None)
    if torch is None or not times:
        return None
    fastest = min(times, key=lambda runtime: times[runtime])
    return torch / times[fastest], f"{row.model} on {fastest}"


def _missing(sections: list[Section]) -> Table | None:
    if not sections:
        return None
    return Table(
        caption="What is missing",
        columns=[Column(title=title, figures=False) for title in ("section", "why", "what makes it")],
        rows=[[text_cell(one.title), text_cell(one.missing), text_cell(one.command)] for one in sections],
    )


def _column_class(table: Table, index: int) -> str:
    """Classes of a column: figures to the right, the thesis' tinted, a rule where a group begins."""
    column = table.columns[index]
    opens = index > 0 and bool(column.group or table.columns[index - 1].group)
    opens = opens and column.group != table.columns[index - 1].group
    words = {"n": column.figures, "then": column.side == "then", "opens": opens}
    return " ".join(word for word, given in words.items() if given)


def _asset(name: str) -> str:
    return (files("segkit_benchmarks") / "templates" / name).read_text(encoding="utf-8").strip()
