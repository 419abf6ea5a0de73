"""The card: what a reader must know of a bundle, in words that cannot be bent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from segkit_runtime.bundle import write_bundle


def test_it_tells_what_a_reader_must_know(bundle: Path) -> None:
    card = (bundle / "card.md").read_text()
    for text in (
        "Research only. Not a medical device.",
        "Modalities, in order: T1, T2",
        "| 2 | 250 | white matter |",
        "Trained on: made up",
        "| grey matter | 90.00 |",
        "| model.onnx | fp32 | 20 | none | traced from the network |",
        "| onnxruntime 1.32.0 | cpu, fp32 | model.onnx | 1.0e-06 of 30 | 100.0000 | 100.0000 |  | 1,000 |  | yes |",
        "Volumes: a made-up head",
        "Parameters: 165",
        "torch 2.13.0",
    ):
        assert text in card


def test_it_tells_what_was_emulated_and_what_stayed_in_fp32(
    make_bundle: Callable, make_proof: Callable, make_onnx: Callable
) -> None:
    digest = hashlib.sha256(make_onnx()).hexdigest()
    model = {"file": "model.onnx", "precision": "bf16", "opset": 20, "sha256": digest, "islands": ["up.1", "head"]}
    proof = make_proof("onnxruntime", precision="bf16", arithmetic="emulated", dice_difference=0.0004, patch_ms=12.34)
    card = (make_bundle(models=[{**model, "made": "cast"}], proofs=[proof]) / "card.md").read_text()
    assert "| model.onnx | bf16 | 20 | up.1, head | cast |" in card
    assert "| cpu, bf16 (emulated) | model.onnx |" in card
    assert "| 4.0e-04 | 1,000 | 12.3 | yes |" in card
    assert "That proves the file, not the runtime." in card


def test_it_tells_of_the_mask_channel_and_the_self_check(tmp_path: Path, make_manifest: Callable) -> None:
    files = {"model.onnx": b"", "selfcheck/image.npy": b"", "selfcheck/labels.npy": b""}
    check = {"image": "selfcheck/image.npy", "labels": "selfcheck/labels.npy"}
    manifest = make_manifest(b"", selfcheck=check, preprocessing={"background": "mask"})
    card = (write_bundle(tmp_path / "x.segkit", manifest, files).folder / "card.md").read_text()
    assert "T1, T2; then one more channel, 1 in the head and 0 outside" in card
    assert "It has a self-check" in card


def test_text_in_it_cannot_steer_a_terminal(make_bundle: Callable) -> None:
    card = (make_bundle(intended_use="a\x1b[2Jb\u202ec\nd") / "card.md").read_text()
    assert "**a\ufffd[2Jb\ufffdc d**" in card


def test_it_says_untrained_and_unproven_loudly(make_bundle: Callable, make_proof: Callable) -> None:
    bundle = make_bundle(weights={"trained": False}, proofs=[make_proof("openvino", proven=False)])
    card = (bundle / "card.md").read_text()
    assert "**Untrained**" in card
    assert "| **no** |" in card


def test_it_tells_which_engines_have_not_run(make_bundle: Callable, make_engine: Callable) -> None:
    card = (make_bundle(engines=[make_engine()]) / "card.md").read_text()
    row = "| engines/toy.engine | tensorrt_rtx 1.7.1.116 | model.onnx | fp16 | sm80+ | 96 | 174 | built, not run |"
    assert row in card
    assert "have not been held against the network on a GPU" in card


def test_names_cannot_break_its_tables(make_bundle: Callable) -> None:
    labels = [{"code": 0, "name": "a|b"}, {"code": 1, "name": "<script>"}]
    assert "| 0 | 0 | a\\|b |\n| 1 | 1 | &lt;script> |" in (make_bundle(labels=labels) / "card.md").read_text()
