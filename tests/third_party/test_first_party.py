"""segkit's own plugins are in no way special: as wheels of their own, beside a segkit3d without them, they work."""

from __future__ import annotations

import json
from pathlib import Path

from .workshop import TURNED_OUT, Workshop


def test_segkit_without_a_plugin_has_neither_its_names_nor_its_code(workshop: Workshop) -> None:
    record = workshop.must(
        "python", "-c", "import importlib.metadata as m; print(*m.files('segkit3d'), sep='\\n')"
    ).out.splitlines()
    assert any(path.startswith("segkit_unet3d/") for path in record)
    assert not [path for path in record if path.startswith(TURNED_OUT)]
    installed = workshop.installed()
    assert not [key for key in installed if key[1] == "segkit3d" and key[2] in ("vnet", "vnet-light", "nonempty")]


def test_wheel_of_segkit_holds_the_template_of_a_plugin_whole(workshop: Workshop) -> None:
    from segkit.cli.plugins_new import TEMPLATE

    site = workshop.environment / "lib"
    (packed,) = site.glob("python*/site-packages/segkit/templates/plugin")
    files = {str(path.relative_to(TEMPLATE)) for path in TEMPLATE.rglob("*") if path.is_file()}
    assert {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()} == files
    assert "project/.github/workflows/test.yml.jinja" in files


def test_plugins_turned_out_are_listed_shown_and_healthy(workshop: Workshop) -> None:
    installed = workshop.installed()
    assert installed["model", "segkit-vnet", "vnet"] == "ok"
    assert installed["sampler", "segkit-samplers", "nonempty"] == "ok"
    (shown,) = workshop.must("segkit", "plugins", "show", "vnet-light", "--json").json()["plugins"]
    assert (shown["from"], shown["module"], shown["status"]) == ("segkit-vnet 7.0", "segkit_vnet", "ok")
    doctor = workshop.must("segkit", "plugins", "doctor", "segkit-vnet", "--json").json()["plugins"]
    assert {(row["name"], row["status"]) for row in doctor} == {
        ("segkit-vnet:vnet", "ok"),
        ("segkit-vnet:vnet-light", "ok"),
    }


def test_they_train_export_and_segment(workshop: Workshop, heads: Path, tmp_path: Path) -> None:
    for line in (
        f"train --model vnet-light --sampler nonempty --data {heads} --modality T1 --out run "
        "--patch 16,16,16 --epochs 1 --patches-per-epoch 1 --validation-patches 1",
        "export run --trt --out vnet.segkit",
        f"segment vnet.segkit --modality T1={heads}/sub-01/T1.nii.gz --out seg.nii.gz",
    ):
        workshop.must("segkit", *line.split(), cwd=tmp_path)
    manifest = json.loads((tmp_path / "vnet.segkit" / "manifest.json").read_text())
    assert all(proof["proven"] for proof in manifest["proofs"])
    assert manifest["engines"]
    assert (tmp_path / "seg.nii.gz").stat().st_size > 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model"], config["model_version"]) == ("segkit-vnet:vnet-light", "7.0")
    assert config["sampler"] == "nonempty"
