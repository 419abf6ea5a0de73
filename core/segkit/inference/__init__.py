"""Whole-volume inference: one tiling and one loop for every engine."""

from segkit.inference.engine import Engine
from segkit.inference.whole_volume import Blending, Tiling, segment_volume

__all__ = ["Blending", "Engine", "Tiling", "segment_volume"]
