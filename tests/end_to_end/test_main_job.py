"""The main job, command by command, as the README tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from segkit import Registry, read_volume

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Job, Segkit


def images(job: Job) -> dict[str, Path]:
    return {"t1": job.data / "sub-001" / "T1.nii.gz", "t2": job.data / "sub-001" / "T2.nii.gz"}


def test_the_bundle_says_what_was_proven_and_what_was_only_built(job: Job) -> None:
    manifest = json.loads((job.bundle / "manifest.json").read_text())
    proofs = {proof["runtime"]: proof for proof in manifest["proofs"]}
    head = np.logical_or.reduce([read_volume(path).data != 0 for path in images(job).values()]).sum()
    assert proofs.keys() == {"onnxruntime", "openvino"}
    for proof in proofs.values():
        assert proof["proven"]
        assert proof["max_abs_logit_difference"] < 1e-3
        assert proof["label_agreement"] >= 0.9999
        assert proof["voxels"] == head
    (engine,) = manifest["engines"]
    assert engine["status"] == "built, not run"
    assert engine["file"].endswith(".engine")
    assert engine["activation_bytes"] > 0
    assert engine["weight_bytes"] > 0
    assert (job.bundle / engine["file"]).stat().st_size > engine["weight_bytes"]


def test_the_manifest_carries_what_evaluate_measured(job: Job) -> None:
    manifest = json.loads((job.bundle / "manifest.json").read_text())
    scores = json.loads((job.run / "scores.json").read_text())
    assert manifest["weights"]["trained"]
    assert manifest["weights"]["dice"] == pytest.approx(scores["mean"])
    assert manifest["modalities"] == ["T1", "T2"]
    assert [label["name"] for label in manifest["labels"]] == ["background", "CSF", "GM", "WM"]


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "openvino"])
def test_segment_gives_what_the_network_gave_in_evaluate(
    job: Job, segkit: Segkit, tmp_path: Path, runtime: str
) -> None:
    out = tmp_path / "seg.nii.gz"
    done = segkit(
        f"segment {job.bundle} --modality T1={{t1}} --modality T2={{t2}} --out {out} --runtime {runtime}", **images(job)
    )
    assert done.code == 0, done.err
    labels, truth = read_volume(out), read_volume(job.data / "sub-001" / "label.nii.gz")
    overlap = [
        2 * ((labels.data == c) & (truth.data == c)).sum() / ((labels.data == c).sum() + (truth.data == c).sum())
        for c in (1, 2, 3)
    ]
    scores = json.loads((job.run / "scores.json").read_text())["mean"]
    assert overlap == pytest.approx([scores[name] for name in ("CSF", "GM", "WM")], abs=1e-3)
    np.testing.assert_array_equal(nib.load(out).affine, nib.load(images(job)["t1"]).affine)


def test_the_runtimes_give_the_same_labels(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    found = []
    for runtime in ("onnxruntime", "openvino"):
        out = tmp_path / f"{runtime}.nii.gz"
        words = f"segment {job.bundle} --modality T1={{t1}} --modality T2={{t2}} --out {out} --runtime {runtime}"
        done = segkit(words, **images(job))
        assert done.code == 0, done.err
        found.append(read_volume(out).data)
    head = np.logical_or.reduce([read_volume(path).data != 0 for path in images(job).values()])
    assert len(np.unique(found[0][head])) > 1
    assert (found[0] == found[1])[head].mean() >= 0.9999


def test_a_flipped_and_permuted_copy_gets_the_same_labels_in_patient_space(
    job: Job, segkit: Segkit, tmp_path: Path
) -> None:
    turned = {}
    for name, path in images(job).items():
        image = nib.load(path)
        orientation = nib.orientations.axcodes2ornt(("S", "L", "A"))
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), orientation)
        turned[name] = tmp_path / f"{name}.nii.gz"
        nib.save(image.as_reoriented(change), turned[name])
    for name, paths in {"straight": images(job), "turned": turned}.items():
        done = segkit(
            f"segment {job.bundle} --modality T1={{t1}} --modality T2={{t2}} --out {tmp_path / name}.nii.gz", **paths
        )
        assert done.code == 0, done.err
    straight, again = (read_volume(tmp_path / f"{name}.nii.gz") for name in ("straight", "turned"))
    assert again.orientation == "SLA"
    np.testing.assert_array_equal(straight.canonical().data, again.canonical().data)


def test_profile_measures_every_runtime_and_reports_the_engine(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    out = tmp_path / "net.profile.json"
    done = segkit(f"profile {job.bundle} --runs 6 --seconds 0 --out {out} --json")
    assert done.code == 0, done.err
    report = json.loads(out.read_text())
    assert json.loads(done.out) == report
    *rows, engine = report["runtimes"]
    assert {row["runtime"] for row in rows} == {"torch", "onnxruntime", "openvino"}
    assert (engine["runtime"], engine["engine"]) == ("tensorrt_rtx", report["engines"][0]["file"])
    assert "p50_ms" in engine or "expected a CUDA device, found none" in engine["failed"]
    for row in rows:
        assert row["precision"] == "fp32"
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["peak_mib"] > 20
        assert row["runs"] == 5
    assert report["engines"][0]["activation_mib"] > 0
    assert report["network"]["layers"]["module_calls"]["rule"].startswith("every module call")


def test_profile_prints_tables_for_people(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    done = segkit(f"profile {job.bundle} --runtime onnxruntime --runs 5 --out {tmp_path / 'p.json'}")
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    assert "built, not run" in done.out
    assert "MACs" in done.out


def test_a_runtime_that_fails_is_a_row_with_the_reason(job: Job, registry: Registry) -> None:
    from segkit_benchmarks.measure import Settings, measure_runtime

    row = measure_runtime(registry, job.bundle, "no-such-runtime", Settings(runs=1))
    assert row["failed"].startswith("UnknownName: no runtime 'no-such-runtime'")
