"""What `segkit report DIR --html` promises of its page without opening it in a browser."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from segkit import Registry
from segkit.errors import DataError, UnknownName, UsageError
from segkit.run import Run
from segkit_benchmarks.html_report import MOST_BYTES
from segkit_benchmarks.html_report_pictures import shrink
from segkit_benchmarks.predictions import predict
from segkit_benchmarks.table1_result import Table1
from segkit_benchmarks.viewer import NIIVUE_COMMAND, NIIVUE_VERSION, make_scene

Segkit = Callable[..., str]

ROOT = Path(__file__).parents[3]
SECTIONS = ["table1", "latency", "memory", "roofline", "peers", "training", "io", "dsc", "scores", "viewer"]
SECTIONS += ["pictures", "curves", "exports", "profiles"]

TEXT = ("ink", "muted", "accent", "good", "bad")
MARKS = ("focus", "strong-rule", *(f"s{number}" for number in range(1, 7)))


class Outline(HTMLParser):
    """Ids, headings, links and labels of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.elements if name == tag]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


def volume(page: str, name: str) -> nib.Nifti1Image:
    packed = re.search(f'id="volume-{name}">([^<]+)<', page)
    assert packed is not None
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed[1])))


def test_every_result_has_its_section_and_nothing_is_called_missing(outline: Outline) -> None:
    assert [values["id"] for values in outline.of("section")] == SECTIONS


def test_every_measured_figure_and_every_reason_of_table_1_is_in_it(page: str, table1: Table1) -> None:
    for row in table1.rows:
        assert f'data-value="{row.model}"' in page
        for cell in row.cells:
            assert cell.timing is None or f'data-value="{cell.timing.p50_ms}"' in page
            assert cell.reason is None or f"{cell.status}: {cell.reason}" in page
    assert "its process ended with code -9" in page
    for reason in {reason for row in table1.rows for reason in row.reasons.values()}:
        assert reason.replace("'", "&#39;") in page


def test_what_results_say_is_text_and_never_markup(page: str) -> None:
    assert "Made-up &lt;CPU&gt; &amp; Co, 2 cores" in page
    assert "<CPU>" not in page


def test_it_fits_in_a_mail_and_asks_no_network_for_anything(page_file: Path, page: str, outline: Outline) -> None:
    assert page_file.stat().st_size < MOST_BYTES
    assert not re.search(r"https?:|@import|[\"'(]//", page)
    for _, values in outline.elements:
        for name in ("src", "href"):
            assert str(values.get(name, "#")).startswith(("#", "data:image/png;base64,"))
    policy = next(meta for meta in outline.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none';")


def test_its_outline_is_one_that_a_screen_reader_can_follow(outline: Outline) -> None:
    assert outline.of("html") == [{"lang": "en"}]
    assert {tag for tag, _ in outline.elements} >= {"header", "nav", "main", "footer"}
    assert outline.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(outline.levels))
    assert len(set(outline.ids)) == len(outline.ids)
    for _, values in outline.elements:
        for attribute in ("aria-labelledby",):
            assert set(str(values.get(attribute) or "").split()) <= set(outline.ids)
    assert all(values.get("alt") for values in outline.of("img"))
    drawn = [values for values in outline.of("svg") if values.get("role") == "img"]
    assert len(drawn) == 12
    assert all(values.get("aria-labelledby") for values in drawn)
    assert all(values.get("role") == "img" or values.get("aria-hidden") == "true" for values in outline.of("svg"))


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    values = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance: 1 to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_every_theme_has_the_contrast_of_wcag_aa(page: str) -> None:
    themes = [
        dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{([^}]+)\}", page)
    ]
    assert len(themes) == 3  # light, dark, print
    for theme in ({**themes[0], **changed} for changed in themes):
        for paper in ("paper", "raised"):
            assert all(contrast(theme[name], theme[paper]) >= 4.5 for name in TEXT), theme
            assert all(contrast(theme[name], theme[paper]) >= 3 for name in MARKS), theme
        assert contrast(theme["then-ink"], theme["then-paper"]) >= 4.5


def test_the_viewer_holds_the_head_its_truth_what_the_network_gave_and_their_difference(page: str) -> None:
    image, truth, prediction, errors = (volume(page, name) for name in ("image", "truth", "prediction", "errors"))
    assert image.shape == truth.shape == prediction.shape
    assert all(data.get_data_dtype() == np.uint8 for data in (image, truth, prediction, errors))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.ptp(np.asarray(image.dataobj)) == 255
    assert set(np.unique(np.asarray(truth.dataobj))) == {0, 1}
    np.testing.assert_array_equal(
        np.asarray(errors.dataobj) == 1, np.asarray(truth.dataobj) != np.asarray(prediction.dataobj)
    )


def test_volumes_that_are_too_large_lose_voxels_and_the_caption_says_so(results: Path, registry: Registry) -> None:
    found = predict(registry, Run.open(results / "run"))
    whole, small = (make_scene(found, "run", "fake", most_bytes) for most_bytes in (10**6, 8000))
    assert "is shown" not in whole.caption
    assert re.search(r"Of \d voxels in a row, one is shown", small.caption)
    assert sum(len(text) for _, text in small.volumes) <= 8000 < sum(len(text) for _, text in whole.volumes)


def test_figures_70_to_73_are_those_that_the_png_report_draws(
    segkit: Segkit, results: Path, page: str, tmp_path: Path
) -> None:
    drawn = json.loads(segkit("report", results / "run", "--out", tmp_path, "--device", "cpu", "--json"))["figures"][2:]
    section = re.search('<section id="pictures".*?</section>', page, re.DOTALL)
    assert section is not None
    shown = re.findall(
        r'<img src="data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)" alt="([^"]+)".*?'
        r"<figcaption[^>]*>As figure (\d+) of the thesis, ([^<]+)<",
        section[0],
        re.DOTALL,
    )
    assert [int(number) for *_, number, _ in shown] == [70, 71, 72, 73]
    for one, (png, width, height, alt, _, caption) in zip(drawn, shown, strict=True):
        assert alt == f"ball-1 (held out): {one['shows']}"
        theirs = np.asarray(Image.open(tmp_path / one["file"]).convert("RGB")).astype(int)
        ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)
        assert ours.shape == theirs.shape == (int(height), int(width), 3)
        assert np.abs(ours - theirs).mean() < 3  # 256 colours
        wrong = one.get("combined", one).get("wrong_percent")
        assert wrong is None or f"{wrong:g} %" in caption
    assert f"ball {drawn[0]['maxima']['ball']['logit']:.3g}" in shown[0][-1]
    assert f"Dice of the volume, %: ball {drawn[1]['dice_of_volume']['ball']:.1f}." in shown[1][-1]


def test_a_picture_that_takes_too_much_of_the_page_is_made_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "PNG")
    png, size = shrink(whole.getvalue(), 10_000)
    assert len(png) <= 10_000
    assert Image.open(io.BytesIO(png)).size == size
    assert size[0] / size[1] == pytest.approx(200 / 120, rel=0.05)
    assert shrink(whole.getvalue())[1] == (200, 120)


def test_a_folder_that_holds_little_says_what_makes_the_rest(
    segkit: Segkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = segkit("report", ROOT / "docs" / "results", "--html", "--out", tmp_path / "little.html")
    page = (tmp_path / "little.html").read_text(encoding="utf-8")
    assert "without viewer: No trained run in this folder." in printed
    assert "segkit train ... --out DIR/run" in page
    assert "segkit profile BUNDLE" in page
    assert "niivue" not in page.lower()


def test_a_table_that_is_not_finished_says_how_to_go_on(segkit: Segkit, table1: Table1, tmp_path: Path) -> None:
    begun = table1.model_copy(update={"finished": None, "rows": [table1.rows[0].model_copy(update={"cells": []})]})
    begun.write(tmp_path / "table1.json")
    said = json.loads(segkit("report", tmp_path, "--html", "--json"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said["sections"] == ["table1", "memory"]
    assert "segkit bench table1 --out DIR --resume goes on" in page
    assert "Inference, batch 1" not in page


def test_without_niivue_there_are_pictures_and_the_command_that_brings_it(
    segkit: Segkit, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "still.html"
    said = json.loads(segkit("report", results, "--html", "--out", out, "--device", "cpu", "--json"))
    page = out.read_text(encoding="utf-8")
    assert NIIVUE_COMMAND in said["missing"]["viewer"]
    assert said["size_bytes"] == out.stat().st_size
    assert NIIVUE_COMMAND in page
    assert "data:image/png;base64," in page
    assert "<canvas" not in page


def test_another_niivue_than_the_one_that_was_tested_is_refused(segkit: Segkit, results: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected NiiVue in .*, found no dist/niivue\.umd\.js"):
        segkit("report", results, "--html", "--niivue", tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "niivue.umd.js").write_text("alert(1)")
    with pytest.raises(DataError, match=f"expected NiiVue {NIIVUE_VERSION} at .*, got another version or an altered"):
        segkit("report", results, "--html", "--niivue", tmp_path)
    assert not (results / "report.html").exists()


def test_a_viewer_for_pictures_is_refused_whatever_the_environment_says(
    segkit: Segkit, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_NIIVUE", str(tmp_path))
    with pytest.raises(UsageError, match="expected --html with --niivue"):
        segkit("report", results, "--niivue", tmp_path)


def test_npm_installs_the_niivue_that_the_report_takes_and_from_no_place_of_its_own() -> None:
    assert json.loads((ROOT / "package.json").read_text())["dependencies"] == {"@niivue/niivue": NIIVUE_VERSION}
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/@niivue/niivue"]["version"] == NIIVUE_VERSION
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


def test_a_folder_without_results_is_refused(segkit: Segkit, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected results in .*, found none; run: segkit bench table1"):
        segkit("report", tmp_path, "--html")
    with pytest.raises(UsageError, match=r"expected a folder of results, .* is none"):
        segkit("report", tmp_path / "nowhere", "--html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dsc.json", "expected what segkit bench dsc writes in .*, found at protocol: Field required"),
        ("peers.json", "expected what segkit bench peers writes in .*, found at machine: Field required"),
        ("training.json", "expected what segkit bench training writes in .*, found at machine: Field required"),
        ("io.json", "expected what segkit bench io writes in .*, found at machine: Field required"),
        ("exports.json", "expected what segkit bench exports writes in .*, found at versions: Field required"),
        ("net.profile.json", "expected what segkit profile writes in .*, found at bundle: Field required"),
        ("table1.json", "expected a result of segkit bench table1, schema 1, in .*, found at created: Field required"),
    ],
)
def test_a_file_that_is_not_what_its_command_writes_is_refused(
    segkit: Segkit, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=message):
        segkit("report", tmp_path, "--html")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_page_is_never_written_over_a_file_of_another_kind(segkit: Segkit, results: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file that ends with \.html, got .*table1\.json"):
        segkit("report", results, "--html", "--out", results / "table1.json")


def test_an_unknown_subject_gets_a_suggestion(segkit: Segkit, results: Path, niivue: Path) -> None:
    with pytest.raises(UnknownName, match="no labelled subject 'ball-9'; did you mean 'ball-"):
        segkit("report", results, "--html", "--niivue", niivue, "--subject", "ball-9")


def test_a_run_whose_data_are_gone_keeps_its_curves_and_says_why_there_is_no_viewer(
    segkit: Segkit, results: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = json.loads((results / "run" / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "gone")}))
    for name in ("metrics.csv", "best.safetensors"):
        (run / name).write_bytes((results / "run" / name).read_bytes())
    said = json.loads(segkit("report", tmp_path, "--html", "--device", "cpu", "--json"))
    assert said["sections"] == ["curves"]
    for name in ("viewer", "pictures"):
        assert said["missing"][name].startswith("run: expected")
