"""A network that nobody wrote for segkit, nnU-Net's from PyPI, becomes a plugin in under 40 lines, and all works."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .workshop import ROOT, Workshop

SOURCE = Path(__file__).with_name("dna_plugin")
NAME = "dna-plain-unet"
THEIRS = "dynamic-network-architectures"


@pytest.fixture(scope="module")
def dna(workshop: Workshop) -> Iterator[str]:
    """The plugin as a wheel, and their package from the index; the name of the model."""
    shutil.copytree(SOURCE, workshop.home / "segkit-dna", ignore=shutil.ignore_patterns("__pycache__"))
    # Without what its transformers need: the U-Nets import torch and numpy alone.
    theirs = ["--constraint", ROOT / "constraints.txt", THEIRS]
    workshop.must("pip", "install", "--no-deps", "--no-compile", *theirs, PIP_NO_INDEX="0")
    workshop.install("./segkit-dna")
    yield NAME
    workshop.must("pip", "uninstall", "--yes", "segkit-dna", THEIRS)


def test_it_takes_fewer_than_40_lines() -> None:
    lines = [line for path in (SOURCE / "segkit_dna").glob("*.py") for line in path.read_text().splitlines()]
    assert 0 < len(lines) < 40


def test_licence_of_the_card_is_that_of_their_package(workshop: Workshop, dna: str) -> None:
    (card,) = workshop.must("segkit", "plugins", "show", dna, "--json").json()["plugins"]
    code = f"import importlib.metadata as m; print(m.metadata('{THEIRS}')['License'])"
    said = workshop.must("python", "-c", code).out
    assert (card["licence"], "Apache License" in said, "Version 2.0" in said) == ("Apache-2.0", True, True)
    assert tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["dependencies"][1].startswith(THEIRS)


def test_it_conforms(workshop: Workshop, dna: str) -> None:
    report = workshop.run("segkit", "plugins", "check", dna, "--json")
    failed = {check["check"]: check["found"] for check in report.json()["checks"] if check["status"] == "failed"}
    assert failed == {}
    assert report.code == 0, report.err


def test_it_is_trained_exported_proven_compiled_and_profiled(
    workshop: Workshop, heads: Path, dna: str, tmp_path: Path
) -> None:
    for line in (
        f"train --model {dna} --option width=8 --data {heads} --out run --patch 16,32,16 --epochs 1 "
        "--patches-per-epoch 1 --validation-patches 1",
        "export run --trt --out dna.segkit",
        "profile dna.segkit --runtime torch --runtime onnxruntime --runs 5 --seconds 0 --out p.json",
    ):
        workshop.must("segkit", *line.split(), cwd=tmp_path)
    manifest = json.loads((tmp_path / "dna.segkit" / "manifest.json").read_text())
    proofs = {proof["runtime"]: proof for proof in manifest["proofs"]}
    assert proofs["onnxruntime"]["proven"]
    assert proofs["onnxruntime"]["precision"] == "fp32"
    assert proofs["onnxruntime"]["max_abs_logit_difference"] < 1e-3
    (engine,) = manifest["engines"]
    assert (engine["runtime"], engine["status"]) == ("tensorrt_rtx", "built, not run")
    assert (tmp_path / "dna.segkit" / engine["file"]).stat().st_size > engine["weight_bytes"] > 0
    rows = {row["runtime"]: row for row in json.loads((tmp_path / "p.json").read_text())["runtimes"]}
    assert set(rows) == {"torch", "onnxruntime"}
    assert all(row["p50_ms"] > 0 and row["peak_mib"] > 0 for row in rows.values())
