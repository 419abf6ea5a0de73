"""`segkit plugins new` writes a package of every kind that installs, passes its own tests, works, and goes again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segkit import read_volume
from segkit.installed import KINDS

from .workshop import Done, Workshop


@pytest.fixture(scope="module")
def written(workshop: Workshop) -> Iterator[dict[str, Path]]:
    """A package of each kind, written and installed; the model so that its source can be changed."""
    packages = {kind: workshop.home / f"segkit-my{kind}" for kind in KINDS}
    for kind, folder in packages.items():
        workshop.must("segkit", "plugins", "new", folder.name, "--kind", kind, "--author", "Ada Lovelace")
    workshop.install(*(f for kind, f in packages.items() if kind != "model"), "--editable", packages["model"])
    yield packages
    workshop.must("pip", "uninstall", "--yes", *(folder.name for folder in packages.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_package_is_listed_and_passes_its_own_tests(workshop: Workshop, written: dict[str, Path], kind: str) -> None:
    assert workshop.installed()[kind, f"segkit-my{kind}", f"my{kind}"] == "ok"
    passed = workshop.must("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=written[kind])
    assert "passed" in passed.out


def test_packages_are_clean_and_have_all_that_a_project_needs(workshop: Workshop, written: dict[str, Path]) -> None:
    for folder in written.values():
        workshop.must("python", "-m", "ruff", "check", "--no-cache", ".", cwd=folder)
        workshop.must("python", "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=folder)
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files >= {
            ".copier-answers.yml",
            ".github/workflows/publish.yml",
            ".github/workflows/test.yml",
            ".gitignore",
            "LICENSE",
            "README.md",
            "pyproject.toml",
        }
        assert not [path for path in files if path.endswith(".jinja")]


@pytest.mark.usefixtures("written")
def test_six_plugins_do_the_main_job_together(workshop: Workshop, heads: Path, tmp_path: Path) -> None:
    def segkit(line: str) -> Done:
        return workshop.must("segkit", *line.split(), cwd=tmp_path)

    segkit(
        "train --model mymodel --dataset mydataset --loss myloss --sampler mysampler --out run "
        f"--data {heads} --patch 16,16,16 --epochs 1 --patches-per-epoch 1 --validation-patches 1 --option width=4"
    )
    segkit("export run --onnx --trt --out mymodel.segkit")
    manifest = json.loads((tmp_path / "mymodel.segkit" / "manifest.json").read_text())
    assert {proof["runtime"] for proof in manifest["proofs"] if proof["proven"]} == {"onnxruntime", "openvino"}
    (engine,) = manifest["engines"]
    assert (engine["runtime"], engine["status"]) == ("tensorrt_rtx", "built, not run")
    assert (tmp_path / "mymodel.segkit" / engine["file"]).stat().st_size > 0
    images = " ".join(f"--modality {modality}={heads}/sub-01/{modality}.nii.gz" for modality in ("T1", "T2"))
    segkit(f"segment mymodel.segkit {images} --out seg.nii.gz")
    volumes_ml = segkit("mycommand seg.nii.gz --json").json()["volumes_ml"]
    codes, counts = np.unique(read_volume(tmp_path / "seg.nii.gz").data, return_counts=True)
    assert volumes_ml == {str(code): count / 1000 for code, count in zip(codes, counts, strict=True) if code}
    report = segkit("profile mymodel.segkit --runtime myruntime --runs 5 --seconds 0 --out p.json --json").json()
    assert [row["runtime"] for row in report["runtimes"]] == ["myruntime"]
    assert report["runtimes"][0]["p50_ms"] > 0


@pytest.mark.parametrize(
    ("good", "bad", "failed"),
    [
        ("self.head(fine)", "self.head(fine).softmax(dim=1)", "mymodel-logits"),
        ("self.merge1(torch.cat([fine, self.up1(middle)], dim=1))", "fine", "mymodel-gradient"),
    ],
    ids=["probabilities instead of logits", "a decoder that is not used"],
)
def test_tests_of_the_package_fail_when_its_network_is_broken(
    workshop: Workshop, written: dict[str, Path], good: str, bad: str, failed: str
) -> None:
    network = written["model"] / "src" / "segkit_mymodel" / "network.py"
    sound = network.read_text()
    assert good in sound
    network.write_text(sound.replace(good, bad))
    try:
        tests = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "logits or gradient"]
        done = workshop.run(*tests, cwd=written["model"], PYTHONDONTWRITEBYTECODE="1")
    finally:
        network.write_text(sound)
    assert done.code == 1
    assert f"test_it_conforms[{failed}]" in done.out


def test_removed_plugin_leaves_nothing_behind(workshop: Workshop) -> None:
    before = workshop.installed()
    workshop.must("segkit", "plugins", "new", "segkit-brief", "--kind", "sampler")
    workshop.install("./segkit-brief")
    assert workshop.installed() == {**before, ("sampler", "segkit-brief", "brief"): "ok"}
    workshop.must("pip", "uninstall", "--yes", "segkit-brief")
    shutil.rmtree(workshop.home / "segkit-brief")
    assert workshop.installed() == before
    gone = workshop.run("segkit", "plugins", "show", "segkit-brief")
    assert (gone.code, gone.err[:33]) == (2, "error: no plugin 'segkit-brief'; ")


def test_a_plugin_that_is_installed_already_is_not_written_again(
    workshop: Workshop, written: dict[str, Path], tmp_path: Path
) -> None:
    refused = workshop.run("segkit", "plugins", "new", "segkit-mymodel", cwd=tmp_path)
    assert refused.code == 2
    assert refused.err == (
        "error: expected a new model, 'mymodel' is in segkit-mymodel 0.1.0 already; "
        "choose another, or: pip uninstall segkit-mymodel\n"
    )
    assert not list(tmp_path.iterdir())
