"""`segkit bench io`: reading an image and writing labels, beside other software."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.extras import is_installed
from segkit.files import write_bytes
from segkit.volume import format_size
from segkit_benchmarks.machine import installed_versions
from segkit_benchmarks.profile import describe_machine
from segkit_benchmarks.table1_render import markdown_table
from segkit_benchmarks.turns import Result, Side, Turn, take_turns

SIZE = (256, 192, 144)
"""Of an image of iSEG-2017, in voxels of 1 mm."""

OURS = "segkit"
NAMES = {"nibabel": "nibabel", "SimpleITK": "SimpleITK", "MONAI": "monai"}
"""The others, and their modules."""

FLOORS = {("read", "SimpleITK"): 1.5, ("read", "MONAI"): 10.0, ("write", "nibabel"): 3.0}
"""How many times as fast as the others we want to be."""

_AFFINE = np.diag([-1.0, 1, 1, 1])


@click.command(epilog="Example: segkit bench io --out out/io")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Of all sides in turn.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="In each round, of each side.")
@click.option("--quick", is_flag=True, help="A tiny image: whether it runs, not how fast.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/io"), show_default=True)
@json_option
def io(rounds: int, repeats: int, quick: bool, out: Path, as_json: bool) -> None:
    """Read a stripped head of 256x192x144 int16 from .nii.gz, and write its labels, each side in a process of its own.

    Read means: the voxels are in memory, checked and turned to RAS as far as that side does so, and patches can be cut.
    """
    size = (32, 24, 18) if quick else SIZE
    out.mkdir(parents=True, exist_ok=True)
    image, labels = made_up_head(size)
    _save(out / "image.nii.gz", image)
    sides: dict[str, Side] = {
        name: partial(_measure, name=name, folder=out.absolute(), labels=labels, repeats=repeats)
        for name in (OURS, *NAMES)
        if name == OURS or is_installed(NAMES[name])
    }
    with progress_bar() as bar:
        task = bar.add_task("reading and writing", total=len(sides) * (rounds + 1))
        results = take_turns(sides, rounds, 1, lambda name: bar.update(task, description=name, advance=1))
    report = make_report(results, out, judged=not quick)
    report |= {"size": size, "rounds": rounds, "repeats": repeats, "quick": quick}
    write_bytes(out / "io.json", (json.dumps(report, indent=1) + "\n").encode())
    write_bytes(out / "io.md", render_markdown(report).encode())
    if as_json:
        print_json(report)
        return
    _print(report)
    click.echo(f"\n{out / 'io.json'}, {out / 'io.md'}")


def made_up_head(size: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image and labels (X, Y, Z), laid out as in a file: tissue in layers and noise in an ellipsoid, zero around it.

    Like a brain after stripping, it fills 14 % of the volume and packs to about 1.5 MB.
    """
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in size], indexing="ij", sparse=True)
    radius = np.sqrt((x / 0.62) ** 2 + (y / 0.7) ** 2 + (z / 0.64) ** 2)
    folded = radius + 0.06 * np.sin(14 * x) * np.cos(11 * y) * np.sin(9 * z)
    labels = np.where(radius < 1, 1 + (folded < 0.85) + (folded < 0.6), 0).astype(np.uint8, order="F")
    noise = np.random.default_rng(0).normal(0, 12, size)
    image = np.where(labels > 0, 250 + 150 * labels + noise, 0).astype(np.int16, order="F")
    return image, labels


def _save(path: Path, image: NDArray[np.int16]) -> None:
    """By nibabel, as most files are: none of the sides wrote it for itself."""
    import nibabel

    nibabel.Nifti1Image(image, _AFFINE).to_filename(path)


def _measure(turn: Turn, name: str, folder: Path, labels: NDArray[np.uint8], repeats: int) -> None:
    """A side of the benchmark: the least time of some reads and of some writes in each round, in ms."""
    read, write = _ACTIONS[name](folder / "image.nii.gz", folder / f"labels-{name}.nii.gz", labels)
    for action in (read, write):
        action()  # imports and first pages of memory
    figures: Mapping[str, Any] = {}
    while True:
        turn(figures)
        figures = {"read": _least_ms(read, repeats), "write": _least_ms(write, repeats)}


def _least_ms(action: Callable[[], object], repeats: int) -> float:
    """Of so short a task, the least: what is longer was interrupted by other work of the machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


Actions = tuple[Callable[[], object], Callable[[], object]]


def _segkit(image: Path, target: Path, labels: NDArray[np.uint8]) -> Actions:
    from segkit.nifti import read_volume, write_volume
    from segkit.volume import Volume

    original = read_volume(image)
    return (
        lambda: read_volume(image).canonical().data,
        lambda: write_volume(target, Volume(labels, original.affine, original.header)),
    )


def _nibabel(image: Path, target: Path, labels: NDArray[np.uint8]) -> Actions:
    import nibabel

    header = nibabel.load(image).header
    return (
        lambda: np.asarray(nibabel.as_closest_canonical(nibabel.load(image)).dataobj),
        lambda: nibabel.Nifti1Image(labels, _AFFINE, header, dtype=np.uint8).to_filename(target),
    )


def _simpleitk(image: Path, target: Path, labels: NDArray[np.uint8]) -> Actions:
    import SimpleITK as sitk  # noqa: N813

    read = sitk.ReadImage(str(image))
    made = sitk.GetImageFromArray(labels.T)  # its arrays are (Z, Y, X): the same bytes
    made.CopyInformation(read)
    return (
        lambda: sitk.ReadImage(str(image)),  # an array is a view of it
        lambda: sitk.WriteImage(made, str(target), useCompression=True),
    )


def _monai(image: Path, target: Path, labels: NDArray[np.uint8]) -> Actions:
    import nibabel
    from monai.data import NibabelWriter
    from monai.transforms import LoadImage

    load = LoadImage(image_only=True)
    affine = nibabel.load(image).affine

    def write() -> None:
        writer = NibabelWriter(output_dtype=np.uint8)
        writer.set_data_array(labels, channel_dim=None)
        writer.set_metadata({"affine": affine, "original_affine": affine})
        writer.write(target)

    return lambda: load(image), write


_ACTIONS = {OURS: _segkit, "nibabel": _nibabel, "SimpleITK": _simpleitk, "MONAI": _monai}


def make_report(results: Mapping[str, Result], folder: Path, *, judged: bool) -> dict[str, Any]:
    """What was measured, and how many times as fast ours is, round by round; floors are for the full size."""
    rows: list[dict[str, Any]] = []
    ours = results[OURS].rounds
    for name, result in results.items():
        if result.failed:
            rows.append({"side": name, "failed": result.failed})
            continue
        row: dict[str, Any] = {"side": name}
        for work in ("read", "write"):
            row[f"{work}_ms"] = round(statistics.median(figures[work] for figures in result.rounds), 2)
            if name != OURS and ours:
                ratios = [theirs[work] / mine[work] for mine, theirs in zip(ours, result.rounds, strict=False)]
                row[f"{work}_ratio"] = {
                    "median": round(statistics.median(ratios), 2),
                    "least": round(min(ratios), 2),
                    "most": round(max(ratios), 2),
                    "floor": FLOORS.get((work, name)) if judged else None,
                }
        row["labels_kb"] = round((folder / f"labels-{name}.nii.gz").stat().st_size / 1000, 1)
        row["peak_mib"] = result.peak_mib
        rows.append(row)
    return {
        "schema": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "versions": installed_versions(["segkit3d", "isal", "numpy", *NAMES.values()]),
        "image_kb": round((folder / "image.nii.gz").stat().st_size / 1000, 1),
        "rows": rows,
    }


def render_markdown(report: Mapping[str, Any]) -> str:
    """The page of a report, such as docs/io.md."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        "# Reading and writing images, beside other software",
        f"From `segkit bench io` on {machine['cpu']}, {machine['cores']} cores, {report['created'][:10]}; {versions}.",
        "**In the quick form: whether it runs, not how fast.**" if report["quick"] else "",
        f"An {_title(report)}. Reading means that the voxels are in memory, checked and turned to RAS as far as that "
        "side does so; then its labels are written as uint8. Each side is in a process of its own. A figure is the "
        f"median over {report['rounds']} rounds of the least of {report['repeats']} times. Ratios are taken round by "
        "round, with the least and the most; beside them stands the floor that segkit is held to, where it has one.",
        markdown_table(_lines(report)),
        *_failures(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _print(report: Mapping[str, Any]) -> None:
    for line in _failures(report):
        click.echo(line)
    print_table(_lines(report), title=_title(report))


def _title(report: Mapping[str, Any]) -> str:
    return f"image of {format_size(report['size'])} int16, {report['image_kb']:.0f} kB packed"


def _failures(report: Mapping[str, Any]) -> list[str]:
    return [f"{row['side']}: not measured: {row['failed']}" for row in report["rows"] if "failed" in row]


def _lines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line of the table for each side that was measured."""
    lines = []
    for row in report["rows"]:
        if "failed" in row:
            continue
        line = {"side": row["side"]}
        for work in ("read", "write"):
            line[f"{work}, ms"] = f"{row[f'{work}_ms']:.1f}"
            line[f"segkit {work}s faster"] = _ratio_text(row.get(f"{work}_ratio"))
        lines.append({**line, "labels, kB": f"{row['labels_kb']:.0f}", "peak, MiB": f"{row['peak_mib']:.0f}"})
    return lines


def _ratio_text(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    text = f"{ratio['median']:.1f} x ({ratio['least']:.1f} to {ratio['most']:.1f})"
    if ratio["floor"] is None:
        return text
    return f"{text}, {'met' if ratio['median'] >= ratio['floor'] else 'NOT MET'}: {ratio['floor']:g}"
