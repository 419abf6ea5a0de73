"""The commands and runtimes of the export layer, as a segkit plugin. This module is all that a listing imports."""

from __future__ import annotations

from segkit import CommandCard, RuntimeCard, hookimpl


@hookimpl
def segkit_commands() -> list[CommandCard]:
    """Return the cards of the commands: from a run to a bundle, and what one does with a bundle."""
    return [
        CommandCard(
            name="export",
            factory="segkit_export.cli:export",
            summary="Export a run or a bare network as a bundle: ONNX held against torch, and engines.",
        ),
        CommandCard(
            name="verify",
            factory="segkit_export.verify_cli:verify",
            summary="Prove a bundle again, on this machine and other data.",
        ),
        CommandCard(
            name="rebuild",
            factory="segkit_export.verify_cli:rebuild",
            summary="Build the TensorRT engines of a bundle again, from the ONNX inside.",
        ),
        CommandCard(
            name="inspect",
            factory="segkit_runtime.inspect_cli:inspect",
            summary="Say what is in a bundle, where it runs and what was proven.",
        ),
        CommandCard(
            name="bundle",
            factory="segkit_runtime.bundle_cli:bundle",
            summary="Sign, verify, pack and unpack bundles.",
        ),
        CommandCard(
            name="doctor",
            factory="segkit_export.doctor_cli:doctor",
            summary="Say which packages, drivers and devices do not fit, and the command that mends each.",
        ),
        CommandCard(
            name="segment",
            factory="segkit_runtime.cli:segment",
            summary="Segment a head with a bundle, without torch.",
        ),
    ]


@hookimpl
def segkit_runtimes() -> list[RuntimeCard]:
    """Return the cards of the runtimes that run here, torch being the reference for the others."""
    return [
        RuntimeCard(
            name="torch",
            factory="segkit.inference.torch_engine:TorchEngine",
            summary="The network itself, fp32: the reference that every export is held against.",
            module="torch",
            extra="train",
            takes="network",
        ),
        RuntimeCard(
            name="onnxruntime",
            factory="segkit_runtime.engines.onnxruntime_engine:OnnxRuntimeEngine",
            summary="ONNX Runtime on the CPU: the engine that proves the ONNX file.",
            module="onnxruntime",
            extra="onnxruntime",
        ),
        RuntimeCard(
            name="openvino",
            factory="segkit_runtime.engines.openvino_engine:compile_onnx",
            summary="OpenVINO on the CPU: the fastest of them on Intel processors.",
            module="openvino",
            extra="openvino",
        ),
    ]
