"""A program that segments one patch and says so: what `segkit bench peers` starts to see how long that takes.

Run as `python -m segkit_benchmarks.peers.first_patch WAY FACTS`, FACTS in JSON. Its one line is JSON, too: segkit says
in it what it ran, as `segkit segment --json` does. Nothing is imported that a way does not need; the modules of segkit
beside its own way only build the network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def segkit(facts: Mapping[str, Any]) -> dict[str, str]:
    """A bundle with its fastest runtime, whose compiled network comes from the user's cache or not."""
    import numpy as np

    from segkit_runtime import load

    with load(facts["bundle"], threads=facts["threads"], allow_untrained=True) as segmenter:
        manifest = segmenter.bundle.manifest
        segmenter.engine.run(np.zeros((1, manifest.channels, *manifest.inference.patch), np.float32)).argmax(1)
        return {"runtime": segmenter.engine.runtime, "precision": segmenter.engine.precision}


def torch(facts: Mapping[str, Any]) -> None:
    """The network itself, in torch."""
    import torch

    from segkit_benchmarks.peers.network import load_network

    network = load_network(facts["network"])
    with torch.inference_mode():
        network(torch.zeros(1, facts["network"]["channels"], *facts["patch"])).argmax(1)


def monai(facts: Mapping[str, Any]) -> None:
    """The network in MONAI's sliding window."""
    import torch
    from monai.inferers import SlidingWindowInferer

    from segkit_benchmarks.peers.network import load_network

    network = load_network(facts["network"])
    inferer = SlidingWindowInferer(facts["patch"], sw_batch_size=1)
    with torch.no_grad():
        inferer(torch.zeros(1, facts["network"]["channels"], *facts["patch"]), network).argmax(1)


WAYS: dict[str, Callable[[Mapping[str, Any]], dict[str, str] | None]] = {
    "segkit": segkit,
    "torch": torch,
    "monai": monai,
}

if __name__ == "__main__":
    ran = WAYS[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(ran), flush=True)  # noqa: T201 - what the one who started this waits for
