"""A program like MONAI's tutorials of inference: files in, labels out. `segkit bench peers` times it as a whole.

Run as `python -m segkit_benchmarks.peers.monai_run FACTS`, FACTS in JSON: "images", files in the order of the channels;
"network" and "patch"; "cropped"; "out", a folder that gets labels.nii.gz. It follows spleen_segmentation_3d.ipynb of
https://github.com/Project-MONAI/tutorials, without its resampling.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from segkit_benchmarks.peers.network import load_network


def segment(facts: Mapping[str, Any]) -> None:
    """Load, normalise, infer with overlap 0.5 and Gaussian weights, save."""
    import torch
    from monai import transforms as mt
    from monai.data import DataLoader, Dataset, decollate_batch
    from monai.inferers import SlidingWindowInferer

    crop = [mt.CropForegroundd("image", "image", lambda image: image != 0)] if facts["cropped"] else []
    before = mt.Compose(
        [
            mt.LoadImaged("image"),
            mt.EnsureChannelFirstd("image"),
            mt.Orientationd("image", axcodes="RAS"),
            mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            *crop,
        ]
    )
    after = mt.Compose(
        [
            mt.Invertd("pred", before, orig_keys="image", nearest_interp=False),
            mt.AsDiscreted("pred", argmax=True),
            mt.SaveImaged(
                "pred", output_dir=facts["out"], output_postfix="", separate_folder=False, resample=False,
                output_dtype="uint8", print_log=False, output_name_formatter=_name,
            ),
        ]
    )  # fmt: skip
    network = load_network(facts["network"])
    inferer = SlidingWindowInferer(facts["patch"], sw_batch_size=1, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        for batch in DataLoader(Dataset([{"image": facts["images"]}], before), batch_size=1):
            batch["pred"] = inferer(batch["image"], network)
            for done in decollate_batch(batch):
                after(done)


def _name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    return {"subject": "labels", "idx": None}


if __name__ == "__main__":
    segment(json.loads(sys.argv[1]))
