"""`segkit inspect`: what is in a bundle, what it runs on, what was proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table
from segkit_runtime.bundle import Bundle
from segkit_runtime.card import also_with, by, plain, voxel_sizes
from segkit_runtime.manifest import Manifest, Proof


@click.command(epilog="Example: segkit inspect unet3d.segkit --key public.pem")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Check the signature with this key."
)
@json_option
def inspect(bundle: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Say what is in BUNDLE, what it takes and gives, where it runs and what was proven. Every file is checked."""
    from segkit_runtime.contents import describe

    opened = Bundle.open(bundle, keys)
    content = describe(opened)
    if as_json:
        print_json(content)
        return
    manifest = opened.manifest
    _print_facts("", _identity(opened, content["bytes"]))
    _print_facts("takes and gives", _inputs_and_labels(manifest))
    _print_facts("network and weights", _provenance(manifest))
    _print_rows("files", [_file_row(file) for file in content["files"]])
    _print_rows("models", [_model_row(model) for model in content["manifest"]["models"]])
    _print_rows(f"runs on (this machine: {content['machine']})", [_way_row(way) for way in content["runs_on"]])
    for way in content["runs_on"]:
        if way["reason"]:
            click.echo(f"  {way['runtime']} {way['precision']}: {plain(way['reason'])}")
    _print_rows(
        "proofs: same labels as torch in fp32, largest change of a Dice and of a logit",
        [_proof_row(proof) for proof in manifest.proofs],
    )
    for proof in manifest.proofs:
        if proof.tiles:
            click.echo(f"  {plain(proof.runtime)} {proof.precision}: {also_with(proof)}")
    for volume in dict.fromkeys(volume for proof in manifest.proofs for volume in proof.volumes):
        click.echo(f"  on {plain(volume)}")


def _identity(bundle: Bundle, size: int) -> dict[str, str]:
    manifest = bundle.manifest
    checked = "checked" if bundle.trusted else "not checked: give --key"
    return {
        "bundle": f"{manifest.name}, {bundle.path}",
        "made": f"{manifest.created} with segkit {manifest.segkit_version}",
        "size": f"{size / 2**20:.1f} MiB in {len(bundle.checksums)} files, each as listed",
        "id": bundle.id,
        "signed": f"by {bundle.signed_by} ({checked})" if bundle.signed_by else "no",
        "self-check": "at load" if manifest.selfcheck else "none",
        "use": manifest.intended_use,
    }


def _inputs_and_labels(manifest: Manifest) -> dict[str, str]:
    tiles = manifest.inference
    mask = ", and a mask channel" if manifest.channels > len(manifest.modalities) else ""
    return {
        "modalities": ", ".join(manifest.modalities) + mask,
        "voxels": voxel_sizes(manifest),
        "axes": manifest.orientation,
        "preparation": manifest.preprocessing.describe(),
        "patches": f"{by(tiles.patch)}, overlap {tiles.overlap:g}, blending {tiles.blending}",
        "labels": ", ".join(f"{label.code} {label.name}" for label in manifest.labels),
    }


def _provenance(manifest: Manifest) -> dict[str, str]:
    network, weights = manifest.network, manifest.weights
    facts = {
        "network": f"{network.model} {network.version}, {network.parameters:,} parameters",
        "weights": "UNTRAINED: its labels mean nothing",
    }
    if weights.trained:
        facts["weights"] = (
            f"trained on {weights.dataset or 'data that was not recorded'}: {len(weights.train_subjects)} subjects, "
            f"{len(weights.held_out_subjects)} held out"
        )
        facts["checkpoint"] = weights.sha256 or "not recorded"
        scores = ", ".join(f"{name} {100 * dice:.2f}" for name, dice in (weights.dice or {}).items())
        facts["Dice, %"] = scores or "not evaluated"
    return facts


def _file_row(file: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": file["file"], "bytes": file["bytes"], "SHA-256": (file["sha256"] or "")[:12]}


def _model_row(model: Mapping[str, Any]) -> dict[str, Any]:
    made = model["made"] or "traced"
    islands = f"{len(model['islands'])} in fp32: {', '.join(model['islands'])}" if model["islands"] else "none"
    row = {"file": model["file"], "precision": model["precision"], "opset": model["opset"]}
    return {**row, "islands": plain(islands), "made": plain(made)}


def _way_row(way: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: plain(way[key]) for key in ("runtime", "precision", "file", "device", "status")}
    return {**row, "here": "yes" if way["here"] else "no"}


def _proof_row(proof: Proof) -> dict[str, Any]:
    return {
        "runtime": plain(f"{proof.runtime} {proof.version}"),
        "precision": proof.precision + (", emulated" if proof.arithmetic == "emulated" else ""),
        "same %": f"{100 * proof.label_agreement:.4f}",
        "ΔDice": "" if proof.dice_difference is None else f"{proof.dice_difference:.1e}",
        "Δlogit": f"{proof.max_abs_logit_difference:.1e}",
        "ms": "" if proof.patch_ms is None else f"{proof.patch_ms:.0f}",
        "proven": "yes" if proof.proven else "NO",
    }


def _print_facts(title: str, facts: Mapping[str, str]) -> None:
    if title:
        click.echo("\n" + click.style(title, bold=True))
    width = max(map(len, facts))
    for name, text in facts.items():
        click.echo(f"{name:<{width}}  {plain(text)}")


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo("\n" + click.style(title, bold=True))
    print_table(rows)
