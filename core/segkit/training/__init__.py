"""Training: from a prepared store to a run folder."""

from segkit.training.loop import Stopped, Trainer

__all__ = ["Stopped", "Trainer"]
