"""The result files that the HTML report reads, as far as it shows what is in them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _File(BaseModel):
    """What the report takes of a result file; there may be more in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ProfileRow(_File):
    """A runtime of profile.json: figures, or why there are none."""

    runtime: str
    failed: str | None = None
    version: str = ""
    device: str = ""
    precision: str = ""
    load_seconds: float | None = None
    first_run_ms: float | None = None
    runs: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    voxels_per_second: float | None = None
    gflops_per_second: float | None = None
    peak_mib: float | None = None


class ProfiledNetwork(_File):
    """The network of a profile."""

    model: str
    parameters: int
    macs: int
    patch: tuple[int, int, int]
    in_channels: int


class ProfileFile(_File):
    """What `segkit profile` writes."""

    bundle: str
    machine: dict[str, Any]
    network: ProfiledNetwork
    onnx_mib: float
    runtimes: list[ProfileRow]
    method: str


class ExportRow(_File):
    """A network in one precision on one runtime."""

    source: str
    runtime: str
    precision: str
    status: str
    trained: bool = False
    label_agreement: float | None = None
    max_abs_logit_difference: float | None = None
    reason: str | None = None


class ExportsFile(_File):
    """What `segkit bench exports` writes."""

    versions: dict[str, str]
    rows: list[ExportRow]


class DscRow(_File):
    """A network on one data set: our Dice and the thesis', %."""

    table: str
    row: str
    model: str
    dataset: str
    thesis: dict[str, float]
    ours: dict[str, float] | None
    failed: str | None = None
    held_out: list[str] = []
    modalities: list[str] = []
    steps: int | None = None
    seconds: float | None = None


class DscFile(_File):
    """What `segkit bench dsc` writes."""

    protocol: str
    convention: str
    minutes: float
    rows: list[DscRow]


class Range(_File):
    """Rounds of one figure: the median, and the whole range."""

    median: float
    least: float
    most: float


class PeersRow(_File):
    """A side of the same work: ours or a peer's. Figures, or why there are none."""

    side: str
    failed: str | None = None
    seconds: Range | None = None
    peak_mib: float | None = None
    mvoxels_per_second: float | None = None
    gflops_per_second: float | None = None
    gemm_share: float | None = None
    patches: int | None = None


class PeersRatio(_File):
    """A peer over one of ours: seconds round by round, peak memory, and the share of voxels labelled alike."""

    ours: str
    peer: str
    seconds: Range
    memory: float | None
    same_labels: float | None


class PeersPart(_File):
    """A network on a kind of volume, or a program that is started anew each time."""

    part: str
    rows: list[PeersRow]
    ratios: list[PeersRatio]


class PeersFloor(_File):
    """The least ratio that was asked for, and what came of it."""

    part: str
    peer: str
    figure: str
    least: float
    predicted_fp32: float | None
    ours: str | None
    ratio: float | None
    verdict: str


class PeersFile(_File):
    """What `segkit bench peers` writes; parts that are not measured yet are not there."""

    machine: dict[str, Any]
    versions: dict[str, str]
    quick: bool
    rounds: int
    threads: int
    volumes: list[PeersPart] = []
    start: PeersPart | None = None
    run: PeersPart | None = None
    floors: list[PeersFloor]


class Statistics(_File):
    """A metric over subjects."""

    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    subjects: int


class ScoresFile(_File):
    """What `segkit evaluate` writes."""

    surface_convention: str
    tolerance_mm: float
    subjects: list[dict[str, Any]]
    mean: dict[str, float | None]
    foreground_mean: float | None
    statistics: dict[str, dict[str, Any]]

    def statistic(self, metric: str, structure: str) -> Statistics | None:
        """A metric of one structure, None where it is not taken."""
        found = self.statistics[metric].get(structure)
        return None if found is None else Statistics.model_validate(found)


class TrainingPatchesRow(_File):
    """A way to draw patches: how many a second of each size, and how long the first took."""

    side: str
    failed: str | None = None
    patches_per_second: dict[str, Range] = {}
    seconds: dict[str, float] = {}
    peak_mib: float | None = None


class TrainingRatio(_File):
    """How many times as fast one of ours is as a peer."""

    work: str
    ours: str
    peer: str
    ratio: Range
    floor: float | None


class TrainingPatches(_File):
    """Patches that are drawn for training."""

    rows: list[TrainingPatchesRow]
    ratios: list[TrainingRatio]


class TrainingStepsRow(_File):
    """A side of a training step of a network."""

    model: str
    input: str
    side: str
    failed: str | None = None
    seconds: Range | None = None
    peak_mib: float | None = None
    ratios: list[TrainingRatio] = []


class TrainingFile(_File):
    """What `segkit bench training` writes; parts that are not measured yet are not there."""

    machine: dict[str, Any]
    versions: dict[str, str]
    repeats: int
    patches: TrainingPatches | None = None
    steps: list[TrainingStepsRow] = []


class IoRatio(Range):
    """How many times as long a peer takes as ours."""

    floor: float | None


class IoRow(_File):
    """A side that reads an image and writes labels."""

    side: str
    failed: str | None = None
    read_ms: float | None = None
    write_ms: float | None = None
    read_ratio: IoRatio | None = None
    write_ratio: IoRatio | None = None
    labels_kb: float | None = None
    peak_mib: float | None = None


class IoFile(_File):
    """What `segkit bench io` writes."""

    machine: dict[str, Any]
    versions: dict[str, str]
    size: tuple[int, int, int]
    rounds: int
    image_kb: float
    rows: list[IoRow]
