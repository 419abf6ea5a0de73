"""The parts of `segkit bench peers`, one after the other, as they fill its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segkit.errors import SegkitError
from segkit.registry import Registry
from segkit.run import Run
from segkit_benchmarks.peers import prepare, programs, report, runs
from segkit_benchmarks.peers.contenders import Chosen, case_sides
from segkit_benchmarks.peers.work import PROGRAM_OVERLAP, Net, Work, bundle_path
from segkit_benchmarks.turns import Result, Side, take_turns

TIMEOUT_SECONDS = 1800.0
"""The longest that a side may prepare, or take for a volume."""

UNTRAINED = "random weights cannot tell what int8 costs: name a trained run with --run"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Fills a report, part by part.

    Attributes:
        registry: finds networks and the phantom.
        chosen: who takes part.
        work: what is done.
        runs: those that give weights, by the model of their network.
        mend: whether int8 may keep modules in fp32.
        folder: for all that is made on the way.
        found: the report.
        save: called after each part.
        show: called with what is going on.
    """

    registry: Registry
    chosen: Chosen
    work: Work
    runs: Mapping[str, Run]
    mend: bool
    folder: Path
    found: report.Report
    save: Callable[[], None]
    show: Callable[[str], None]
    _int8: dict[tuple[str, float], Mapping[str, Any]] = field(default_factory=dict)

    def run(self, parts: tuple[str, ...], models: tuple[str, ...]) -> None:
        """Measure parts; volumes with some of the networks."""
        from segkit_benchmarks.training_peers import gemm

        wanted = ("fp32", "bf16") if self.chosen.bf16 else ("fp32",)
        products = self._turns({"the machine's own peak": partial(gemm, precisions=wanted)}, 3).popitem()[1].rounds
        self.found["machine"]["gemm_gflops_per_second"] = {
            name: max(figures[name] for figures in products) for name in wanted if products
        }
        self.found["volume"] = self._prepared(
            "the head", partial(prepare.volumes, registry=self.registry, work=self.work, folder=self.folder)
        )
        started = [part for part in parts if part != "volume"]
        self.found["volumes"], self.found["networks"] = [], []
        for net in self.work.nets:
            first = net is self.work.nets[0]
            volumes = "volume" in parts and (not models or net.model in models)
            if not (volumes or (first and started)):
                continue
            known = self._network(net)
            for part in started if first else ():
                self._programs(part, net, known["network"])
            if volumes:
                self._volumes(net, known)
        self.save()

    def _network(self, net: Net) -> Mapping[str, Any]:
        run = self.runs.get(net.model)
        trained = None if run is None else run.folder
        side = partial(prepare.network, registry=self.registry, net=net, folder=self.folder, run=trained)
        known = self._prepared(f"{net.model}: weights and ONNX", side)
        described = None if run is None else runs.describe_run(run, net, known["dice"])
        self.found["networks"].append({"model": net.model, "parameters": known["parameters"], "run": described})
        return known

    def _export(self, net: Net, overlap: float, *, always: bool) -> Mapping[str, Any]:
        """Export a network in fp32 and, if it is trained, in int8; the proof of that, or why there is none.

        Args:
            net: the network.
            overlap: of tiles.
            always: whether a bundle must be there in any case.
        """
        if (net.model, overlap) in self._int8:
            return self._int8[net.model, overlap]
        run, path = self.runs.get(net.model), bundle_path(self.folder, net.model, overlap)
        bundle = partial(
            prepare.bundle,
            registry=self.registry,
            net=net,
            overlap=overlap,
            run=None if run is None else run.folder,
            out=path,
        )
        name = f"{net.model}, overlap {overlap:g}: export"
        int8: Mapping[str, Any] = {"proof": None, "why_not": UNTRAINED}
        if run:
            side = partial(bundle, precisions=("fp32", "int8"), mend=self.mend)
            result = self._turns({f"{name} and proof of int8": side}, 0).popitem()[1]
            int8 = {"proof": None, "why_not": result.failed} if result.failed else result.first
        if always and not path.exists():
            self._prepared(name, partial(bundle, precisions=("fp32",), mend=False))
        self._int8[net.model, overlap] = int8
        return int8

    def _prepared(self, name: str, side: Side) -> Mapping[str, Any]:
        result = self._turns({name: side}, 0)[name]
        if result.failed:
            raise SegkitError(f"expected to prepare {name}, it failed: {result.failed}")
        return result.first

    def _volumes(self, net: Net, known: Mapping[str, Any]) -> None:
        shape = self.found["volume"]["shape"]
        for case in net.cases:
            int8 = self._export(net, case.overlap, always=False)
            sides, left_out = case_sides(
                self.chosen,
                net,
                case,
                known["network"],
                self.folder,
                self.found["threads"],
                no_int8=int8.get("why_not"),
            )
            results = self._turns(sides, self.found["rounds"], f"{net.model}, {case}: ")
            self.found["volumes"].append(
                report.volume_report(
                    results,
                    left_out,
                    net,
                    case,
                    folder=self.folder,
                    gflop=known["gflop"],
                    peak=self.found["machine"]["gemm_gflops_per_second"],
                    voxels=shape[0] * shape[1] * shape[2],
                    int8=int8["proof"],
                )
            )
            self.save()

    def _programs(self, part: str, net: Net, network: Mapping[str, Any]) -> None:
        int8 = self._export(net, PROGRAM_OVERLAP, always=True)
        make = programs.first_patches if part == "start" else programs.whole_runs
        sides = make(self.folder, network, net, self.chosen.peers, self.found["threads"])
        results = programs.by_what_ran(self._turns(sides, self.found["rounds"], f"{part}: "))
        alike = partial(programs.agreement, self.folder) if part == "run" else lambda ours, peer: None
        self.found[part] = report.program_report(part, results, alike, int8["proof"])
        self.save()

    def _turns(self, sides: Mapping[str, Side], rounds: int, what: str = "") -> dict[str, Result]:
        return take_turns(
            sides,
            rounds,
            self.found["threads"],
            lambda name: self.show(f"{what}{name}"),
            timeout_seconds=TIMEOUT_SECONDS,
        )
