"""Training: from a prepared store to a run folder."""

from segkit.training.loop import Trainer
from segkit.training.stopping import Stopped

__all__ = ["Stopped", "Trainer"]
