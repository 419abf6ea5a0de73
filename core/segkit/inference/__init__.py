"""Whole-volume inference: one tiling and one loop for every engine."""

from segkit.inference.blending import Blending
from segkit.inference.engine import Engine
from segkit.inference.whole_volume import Spent, Tiling, run_plan, segment_volume

__all__ = ["Blending", "Engine", "Spent", "Tiling", "run_plan", "segment_volume"]
