"""Training: from a prepared store to a run folder."""

from segkit.training.loop import Trainer

__all__ = ["Trainer"]
