"""The manifest: all that a bundle says of itself, as a versioned schema.

A bundle is a folder of data, never code:

    vnet.segkit/
      manifest.json     this schema
      model.onnx        the network, fp32, no external data
      model.*.onnx      the same in other precisions, if any
      engines/*.engine  compiled engines, if any
      selfcheck/        a patch and the labels that the network gives it
      card.md           the same for people to read
      SHA256SUMS        the hash of each of these files
      SHA256SUMS.sig    a signature of that list, if it was signed
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segkit.preprocess import Preprocessing

SCHEMA = 4
"""The version of the schema that this runtime reads and writes."""
MAX_CLASSES = 255
"""Class indices are kept as uint8, and 255 means "ignored" everywhere in segkit."""

SPACING_TOLERANCE_MM = 5e-3
"""Headers round voxel sizes: 0.977 for 0.9765625."""

Side = Annotated[int, Field(ge=1, le=4096)]
Size3 = tuple[Side, Side, Side]
Millimetres = Annotated[float, Field(gt=0)]
Millimetres3 = tuple[Millimetres, Millimetres, Millimetres]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$")]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
Arithmetic = Literal["native", "emulated"]
Shape = Annotated[list[int], Field(min_length=5, max_length=5)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Label(_Part):
    """A class: its index is its place in the list, `code` what is written into files."""

    code: Annotated[int, Field(ge=0, le=65535)]
    name: Name


class Spacing(_Part):
    """The voxel sizes, in mm along the canonical axes, that the network was trained for."""

    least_mm: Millimetres3
    most_mm: Millimetres3

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(least > most for least, most in zip(self.least_mm, self.most_mm, strict=True)):
            raise ValueError(f"expected least_mm not above most_mm, got {self.least_mm} and {self.most_mm}")
        return self

    def takes(self, sides_mm: Sequence[float]) -> bool:
        """Whether voxels of that size are within it, to what headers round."""
        return all(
            least - SPACING_TOLERANCE_MM <= side <= most + SPACING_TOLERANCE_MM
            for side, least, most in zip(sides_mm, self.least_mm, self.most_mm, strict=True)
        )


class Inference(_Part):
    """How whole volumes are cut and put together."""

    patch: Size3
    overlap: Annotated[float, Field(ge=0, le=0.75)]
    blending: Literal["gaussian", "constant"]


class Network(_Part):
    """Where the network comes from and how large it is.

    Attributes:
        model: qualified name of the model plugin, `distribution:name`.
        version: version of that distribution.
        options: options the network was built with.
        parameters: number of parameters.
        layers: number of layers by each counting rule.
        layer_rules: the text of each rule.
        macs: multiply-accumulates for one patch.
    """

    model: str
    version: str
    options: dict[str, int | float | str | bool]
    parameters: int
    layers: dict[str, int]
    layer_rules: dict[str, str]
    macs: int


class Weights(_Part):
    """What the weights are worth.

    Attributes:
        trained: False for a bare architecture, which is refused for segmentation unless forced.
        dataset: data set and subjects it was trained on.
        dice: Dice per class on held-out subjects, 0 to 1, if it was evaluated.
        sha256: hash of the checkpoint file.
    """

    trained: bool
    dataset: str | None = None
    train_subjects: list[str] = []
    held_out_subjects: list[str] = []
    dice: dict[str, Share] | None = None
    sha256: Sha256 | None = None


class Model(_Part):
    """An ONNX file of the bundle: the traced network in fp32, or that file in another precision.

    Attributes:
        file: its name in the bundle.
        precision: what its weights and products are in, the islands aside.
        opset: version of the ONNX operator set.
        sha256: hash of the file.
        outputs: what it gives, in order: logits, and where tiles do not overlap also labels and mean_logit.
        islands: parts of the network that stay in fp32, by module path.
        made: how it was made of the fp32 file, in words; empty for that file itself.
    """

    file: str
    precision: Precision
    opset: int
    sha256: Sha256
    outputs: list[str] = ["logits"]
    islands: list[str] = []
    made: str = ""


class Tolerance(_Part):
    """How far an engine may be from torch in fp32 and still count as proven.

    Attributes:
        most_logit_difference: largest difference of a logit, in units of 1 or, if that is more, of a tenth of the
            largest logit; None where labels alone decide.
        least_label_agreement: least share of voxels with the same label, 0 to 1.
        most_dice_difference: largest change of the Dice of a class against the truth, 0 to 1; it counts for trained
            weights on volumes that have a truth.
    """

    most_logit_difference: float | None
    least_label_agreement: Share
    most_dice_difference: Share


class TileProof(_Part):
    """A runtime run with tiles of another size, and held against torch with those of `Inference.patch`.

    Attributes:
        patch: size of the tiles.
        label_agreement: share of the voxels of whole volumes that got the same label, 0 to 1.
        least_dice: least Dice between the two label maps over all classes either of them has, 0 to 1.
        dice_difference: largest change of the Dice of a class against the truth, 0 to 1, if there is a truth.
        patch_ms: median time of a tile where the proof was made.
        tolerance: what it was held to.
        proven: whether all tolerances were met.
    """

    patch: Size3
    label_agreement: Share
    least_dice: Share
    dice_difference: Share | None = None
    patch_ms: float | None = None
    tolerance: Tolerance
    proven: bool


class Proof(_Part):
    """One runtime held against torch fp32, on logits of patches and on labels of whole volumes.

    Attributes:
        runtime: what was run.
        version: its version.
        device: where it ran.
        precision: what it computed in.
        model: the ONNX file it ran.
        arithmetic: "native", or "emulated" where a runtime that cannot compute in that precision rounded each tensor to
            it: that proves the file, not the runtime, which is not chosen for segmentation on its strength.
        patches: patches whose logits were compared, spread evenly over the volumes; all where memory allowed.
        max_abs_logit_difference: largest difference of a logit.
        mean_abs_logit_difference: mean difference of a logit.
        p999_abs_logit_difference: difference that 99.9 % of the logits keep to.
        max_abs_logit: largest logit of torch, for scale.
        label_agreement: share of the voxels of whole volumes that got the same label, 0 to 1.
        least_dice: least Dice between the two label maps over all classes either of them has, 0 to 1.
        dice_difference: largest change of the Dice of a class against the truth, 0 to 1, if there is a truth.
        voxels: voxels compared.
        volumes: what the volumes were.
        patch_ms: median time of a patch where the proof was made, if it was taken.
        cpu_instructions: of the CPU that the time is of, those that decide how fast it computes; None on a GPU.
        tiles: other sizes of tiles that it was held against torch with.
        tolerance: what it was held to.
        proven: whether all tolerances were met.
    """

    runtime: str
    version: str
    device: str
    precision: Precision
    model: str
    arithmetic: Arithmetic = "native"
    patches: Annotated[int, Field(ge=1)]
    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    p999_abs_logit_difference: float
    max_abs_logit: float
    label_agreement: Share
    least_dice: Share
    dice_difference: Share | None = None
    voxels: int
    volumes: list[str]
    patch_ms: float | None = None
    cpu_instructions: list[str] | None = None
    tiles: list[TileProof] = []
    tolerance: Tolerance
    proven: bool


class CompiledEngine(_Part):
    """A compiled engine in the bundle.

    Attributes:
        file: path inside the bundle.
        runtime: the module that built it and alone can load it.
        version: its version; an engine loads only in the version that built it.
        precision: what it computes in.
        model: the ONNX file it was built from.
        onnx_sha256: hash of that file.
        shapes: least, best and largest input (B, C, X, Y, Z).
        targets: compute capabilities it was built for.
        flags: builder flags.
        build_seconds: how long the build took.
        activation_bytes: device memory for activations, as the builder reports it.
        weight_bytes: device memory for weights, as the builder reports it.
        status: "built, not run" until it has been held against torch on a GPU.
    """

    file: str
    runtime: str
    version: str
    precision: Precision
    model: str
    onnx_sha256: Sha256
    shapes: tuple[Shape, Shape, Shape]
    targets: list[str]
    flags: list[str]
    build_seconds: float
    activation_bytes: int
    weight_bytes: int
    status: Literal["built, not run", "proven"]


class SelfCheck(_Part):
    """A patch that a runtime can be tried on where it is: it must give these labels.

    Attributes:
        image: file of the patch, .npy, (C, X, Y, Z) float16, normalised.
        labels: file of the labels that torch in fp32 gives it, .npy, (X, Y, Z) uint8 class indices.
    """

    image: str
    labels: str


class Manifest(_Part):
    """All that a scanner needs to know of a bundle."""

    schema_version: Literal[4] = 4
    name: Name
    created: str
    segkit_version: str
    modalities: Annotated[list[Name], Field(min_length=1)]
    orientation: Literal["RAS"] = "RAS"
    spacing: Spacing | None
    resample_mm: Millimetres3 | None = None
    preprocessing: Preprocessing
    inference: Inference
    labels: Annotated[list[Label], Field(min_length=2, max_length=MAX_CLASSES)]
    network: Network
    weights: Weights
    models: Annotated[list[Model], Field(min_length=1)]
    proofs: list[Proof]
    engines: list[CompiledEngine]
    selfcheck: SelfCheck | None = None
    software: dict[str, str]
    intended_use: str = "Research only. Not a medical device."

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _require_unique("modalities", self.modalities)
        _require_unique("label codes", [label.code for label in self.labels])
        _require_unique("label names", [label.name for label in self.labels])
        _require_unique("model files", [model.file for model in self.models])
        files = [model.file for model in self.models]
        for named in [*(proof.model for proof in self.proofs), *(engine.model for engine in self.engines)]:
            if named not in files:
                raise ValueError(f"expected one of the models {', '.join(files)}, got {named!r}")
        return self

    @model_validator(mode="after")
    def _resampled_to_what_it_takes(self) -> Self:
        if self.resample_mm is not None and not (self.spacing and self.spacing.takes(self.resample_mm)):
            raise ValueError(f"expected resample_mm within spacing, got {self.resample_mm} and {self.spacing}")
        return self

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.preprocessing.channels(len(self.modalities))

    def to_json(self) -> bytes:
        """The one way a manifest is written: UTF-8, sorted keys, indent 1, a newline at the end."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def _require_unique(what: str, values: Sequence[Hashable]) -> None:
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ValueError(f"expected different {what}, got {twice!r} twice")
