"""The card of a bundle: its manifest for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segkit_runtime.manifest import Manifest, Proof


def render_card(manifest: Manifest) -> str:
    """Write a manifest as Markdown; the same manifest gives the same text."""
    blocks = [
        f"# {_plain(manifest.name)}",
        f"**{_plain(manifest.intended_use)}**",
        _inputs(manifest),
        _labels(manifest),
        _weights(manifest),
        _network(manifest),
        _models(manifest),
        _proofs(manifest),
        _engines(manifest),
        _limits(manifest),
        _software(manifest),
    ]
    return "\n\n".join(blocks) + "\n"


def _inputs(manifest: Manifest) -> str:
    tiles = manifest.inference
    channels = ", ".join(_plain(name) for name in manifest.modalities)
    if manifest.channels > len(manifest.modalities):
        channels += "; then one more channel, 1 in the head and 0 outside"
    facts = [
        f"Modalities, in order: {channels}",
        f"Voxel sizes along {manifest.orientation} axes: {voxel_sizes(manifest)}",
        f"Preprocessing: {manifest.preprocessing.describe()}",
        f"Patches of {by(tiles.patch)} voxels, overlap {tiles.overlap:g}, blending {tiles.blending}",
    ]
    return "## What it takes\n\n" + _list(facts)


def _labels(manifest: Manifest) -> str:
    rows = [(str(index), str(label.code), label.name) for index, label in enumerate(manifest.labels)]
    return "## What it gives\n\n" + _table(("class", "code in files", "name"), rows)


def _weights(manifest: Manifest) -> str:
    weights = manifest.weights
    if not weights.trained:
        text = "**Untrained**: these are the network's first, random weights. Its output means nothing."
        return f"## Weights\n\n{text}"
    facts = [
        f"Trained on: {_plain(weights.dataset or 'not recorded')}",
        f"Subjects trained on: {len(weights.train_subjects)}, held out: {len(weights.held_out_subjects)}",
        f"Checkpoint SHA-256: {weights.sha256 or 'not recorded'}",
    ]
    text = "## Weights\n\n" + _list(facts)
    if weights.dice is None:
        return text + "\n\nNot evaluated on held-out subjects."
    rows = [(name, f"{100 * value:.2f}") for name, value in weights.dice.items()]
    return text + "\n\n" + _table(("class", "Dice on held-out subjects, %"), rows)


def _network(manifest: Manifest) -> str:
    network = manifest.network
    facts = [
        f"Model: {_plain(network.model)} {_plain(network.version)}",
        f"Options: {_plain(', '.join(f'{key} = {value}' for key, value in network.options.items())) or 'none'}",
        f"Parameters: {network.parameters:,}",
        f"Multiply-accumulates for a patch: {network.macs:,}",
        *(f"Layers: {count} ({_plain(network.layer_rules.get(rule, rule))})" for rule, count in network.layers.items()),
    ]
    return "## Network\n\n" + _list(facts)


def _models(manifest: Manifest) -> str:
    rows = [
        (
            model.file,
            model.precision,
            str(model.opset),
            ", ".join(model.islands) or "none",
            model.made or "traced from the network",
        )
        for model in manifest.models
    ]
    columns = ("file", "precision", "opset", "islands in fp32", "made")
    check = "It has a self-check: a patch and its labels, which a runtime can be tried on where it is."
    return "## Models\n\n" + _table(columns, rows) + (f"\n\n{check}" if manifest.selfcheck else "")


def _proofs(manifest: Manifest) -> str:
    head = "## Proofs\n\n"
    if not manifest.proofs:
        return head + "None: no runtime was held against the trained network."
    rows = [
        (
            f"{proof.runtime} {proof.version}",
            f"{proof.device}, {proof.precision}" + (" (emulated)" if proof.arithmetic == "emulated" else ""),
            proof.model,
            f"{proof.max_abs_logit_difference:.1e} of {proof.max_abs_logit:.3g}",
            f"{100 * proof.label_agreement:.4f}",
            f"{100 * proof.least_dice:.4f}",
            "" if proof.dice_difference is None else f"{proof.dice_difference:.1e}",
            f"{proof.voxels:,}",
            "" if proof.patch_ms is None else f"{proof.patch_ms:.1f}",
            "yes" if proof.proven else "**no**",
        )
        for proof in manifest.proofs
    ]
    columns = (
        "runtime",
        "where",
        "model",
        "largest logit difference",
        "same labels, %",
        "least Dice, %",
        "Dice change against the truth",
        "voxels",
        "ms for a patch",
        "proven",
    )
    volumes = dict.fromkeys(_plain(volume) for proof in manifest.proofs for volume in proof.volumes)
    text = "Each runtime held against torch in fp32, on whole volumes:\n\n" + _table(columns, rows)
    if any(proof.arithmetic == "emulated" for proof in manifest.proofs):
        text += (
            "\n\nEmulated: the runtime cannot compute in that precision and rounded each tensor to it. That proves the "
            "file, not the runtime."
        )
    others = [f"{proof.runtime} in {proof.precision} {also_with(proof)}" for proof in manifest.proofs if proof.tiles]
    text += "\n\n" + _list(map(_plain, others)) if others else ""
    return head + text + "\n\nVolumes: " + "; ".join(volumes)


def _engines(manifest: Manifest) -> str:
    head = "## Engines\n\n"
    if not manifest.engines:
        return head + "None compiled; `model.onnx` runs on onnxruntime and OpenVINO."
    rows = [
        (
            engine.file,
            f"{engine.runtime} {engine.version}",
            engine.model,
            engine.precision,
            ", ".join(engine.targets),
            f"{engine.activation_bytes / 2**20:.0f}",
            f"{engine.weight_bytes / 2**20:.0f}",
            engine.status,
        )
        for engine in manifest.engines
    ]
    columns = ("file", "runtime", "of", "precision", "targets", "activations, MiB", "weights, MiB", "status")
    return head + _table(columns, rows)


def _limits(manifest: Manifest) -> str:
    facts = [
        "A segmentation is only as good as the likeness of the images to those the network was trained on.",
        "Images that are missing a modality, lie on different grids or have other voxel sizes are refused.",
        "A runtime that is not proven above is refused; another version of a proven one is run with a warning.",
    ]
    if any(engine.status == "built, not run" for engine in manifest.engines):
        facts.append("Engines marked `built, not run` have not been held against the network on a GPU.")
    return "## Limits\n\n" + _list(facts)


def _software(manifest: Manifest) -> str:
    versions = {"segkit": manifest.segkit_version, **manifest.software}
    facts = [
        f"Made {_plain(manifest.created)}",
        *(f"{model.file}, SHA-256 {model.sha256}" for model in manifest.models),
        ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in versions.items()),
    ]
    return "## Made with\n\n" + _list(facts)


def _list(facts: Iterable[str]) -> str:
    return "\n".join(f"- {fact}" for fact in facts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: str) -> str:
    """Text that cannot leave its line, steer a terminal or turn the order of what is read."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def _plain(text: str) -> str:
    """Text that cannot leave its cell, either."""
    return plain(text).replace("|", "\\|").replace("<", "&lt;")


def voxel_sizes(manifest: Manifest) -> str:
    """The voxel sizes that are taken, and what becomes of others."""
    spacing, resample_mm = manifest.spacing, manifest.resample_mm
    if spacing is None:
        return "any"
    others = f"; others are resampled to {by(resample_mm)} mm" if resample_mm else ""
    return f"{by(spacing.least_mm)} to {by(spacing.most_mm)} mm{others}"


def also_with(proof: Proof) -> str:
    """The other sizes of tiles that a runtime was proven with."""
    sizes = ", ".join(f"{by(tile.patch)} ({100 * tile.label_agreement:.2f} % same labels)" for tile in proof.tiles)
    return f"also with tiles of {sizes}"


def by(sizes: Iterable[float]) -> str:
    """Sizes along the axes: 64 x 64 x 64."""
    return " x ".join(f"{size:g}" for size in sizes)
