"""The training loop. Every step is a function of the run's config and its number, so it can stop and go on anywhere."""

from __future__ import annotations

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import SegkitError
from segkit.files import write_bytes
from segkit.inference import Tiling, segment_volume
from segkit.inference.torch_engine import TorchEngine
from segkit.metrics import confusion_matrix, dice, mean_dice
from segkit.run import Run
from segkit.store import PreparedSubject
from segkit.training.batches import Sampler, draw_batch
from segkit.training.checkpoint import Progress, load_checkpoint, save_checkpoint, save_weights

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from segkit.registry import Registry

MOMENTUM = 0.9


@dataclass
class Trainer:
    """Trains the network of a run.

    Args:
        run: where everything is written.
        registry: finds the network, the loss and the sampler.
        train: subjects that are trained on.
        held_out: subjects that are validated on, as whole volumes.
        device: torch device.
        on_step: called after every step with the number of steps done and the loss.
        on_epoch: called after every epoch with its row of metrics.csv.
        on_stop: called when Ctrl-C or SIGTERM has come; the step under way is finished first.
    """

    run: Run
    registry: Registry
    train: Sequence[PreparedSubject]
    held_out: Sequence[PreparedSubject]
    device: str = "cpu"
    on_step: Callable[[int, float], None] = lambda step, loss: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None
    on_stop: Callable[[], None] = lambda: None

    def fit(self) -> Progress:
        """Train from the last checkpoint, or from the start, to the end.

        Returns:
            How the training went.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the state has been saved, and another `fit` goes on from it.
            SegkitError: the loss is not finite, or memory ran out.
        """
        import torch
        from torch.utils.tensorboard import SummaryWriter

        config = self.run.config
        torch.manual_seed(config.seed)
        network = self.registry.build_model(config.model, len(config.modalities), len(config.labels), config.options)
        # Channels last is the layout that convolutions compute in: on CPUs up to a third of the step is saved.
        network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        loss_function = self.registry.build("loss", config.loss)()
        sampler: Sampler = self.registry.build("sampler", config.sampler)()
        optimizer = self._optimizer(network)
        progress = load_checkpoint(self.run.last, network, optimizer) if self.run.last.is_file() else Progress()
        began = time.monotonic() - progress.seconds
        with (
            _stop_request(self.on_stop) as stop,
            SummaryWriter(self.run.folder / "tensorboard", purge_step=progress.step) as board,
        ):
            while len(progress.rows) < config.epochs:
                end = (len(progress.rows) + 1) * config.steps_per_epoch
                network.train()
                while progress.step < end:
                    loss = self._step(network, optimizer, loss_function, sampler, progress.step)
                    progress.step += 1
                    progress.losses.append(loss)
                    self.on_step(progress.step, loss)
                    if stop.requested:
                        self._save(network, optimizer, progress, began)
                        raise Stopped
                self._save(network, optimizer, progress, began)
                row = self._validate(network, progress, stop)
                progress.rows.append({**row, "seconds": round(time.monotonic() - began, 2)})
                progress.losses = []
                if progress.rows[-1]["mean_dice"] > progress.best or not self.run.best.is_file():
                    progress.best = progress.rows[-1]["mean_dice"]
                    save_weights(self.run.best, network)
                self._save(network, optimizer, progress, began)
                self._report(progress.rows, board)
        return progress

    def _optimizer(self, network: torch.nn.Module) -> torch.optim.Optimizer:
        import torch

        config = self.run.config
        if config.optimizer == "sgd":
            return torch.optim.SGD(
                network.parameters(), config.learning_rate, momentum=MOMENTUM, weight_decay=config.weight_decay
            )
        return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)

    def _step(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Any,
        sampler: Sampler,
        step: int,
    ) -> float:
        import torch

        config = self.run.config
        for group in optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        # Dropout draws from torch's generator: seeding it per step makes a resumed run equal to one that never stopped.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))
        with _memory_errors():
            images, target = draw_batch(self.train, sampler, config.patch, config.batch_size, config.seed, step)
            return self._learn(network, optimizer, loss_function, images, target, step)

    def _learn(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Any,
        images: NDArray[np.float32],
        target: NDArray[np.int64],
        step: int,
    ) -> float:
        import torch

        optimizer.zero_grad(set_to_none=True)
        logits = network(torch.from_numpy(images).to(self.device, memory_format=torch.channels_last_3d))
        loss = loss_function(logits, torch.from_numpy(target).to(self.device), IGNORE)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SegkitError(
                f"expected a finite loss, got {value} at step {step}",
                hint="lower --learning-rate, or look at the images",
            )
        loss.backward()
        optimizer.step()
        return value

    def _learning_rate(self, step: int) -> float:
        """Constant for SGD, as in the thesis; for AdamW a cosine down to zero (Loshchilov 2017, arXiv:1608.03983)."""
        config = self.run.config
        if config.optimizer == "sgd":
            return config.learning_rate
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))

    def _validate(self, network: torch.nn.Module, progress: Progress, stop: _StopRequest) -> dict[str, Any]:
        """Score whole held-out volumes, tiled without overlap: a third of the time of the final evaluation's tiling."""
        config = self.run.config
        engine = TorchEngine(network, device=self.device)
        tiling = Tiling(config.patch, overlap=0.0, blending="constant")
        scores = []
        for subject in self.held_out:
            labels = segment_volume(engine, subject.images, subject.mask, tiling, stop.check)
            scores.append(dice(confusion_matrix(subject.label, labels, len(config.labels))))
        mean = np.nanmean(np.stack(scores), axis=0)
        return {
            "epoch": len(progress.rows) + 1,
            "step": progress.step,
            "learning_rate": self._learning_rate(progress.step - 1),
            "loss": float(np.mean(progress.losses)),
            "mean_dice": mean_dice(mean, background=False),
            **{f"dice_{label.name}": float(score) for label, score in zip(config.labels, mean, strict=True)},
        }

    def _save(
        self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, began: float
    ) -> None:
        progress.seconds = time.monotonic() - began
        save_checkpoint(self.run.last, network, optimizer, progress)
        if progress.rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(progress.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(progress.rows)
            write_bytes(self.run.folder / "metrics.csv", text.getvalue().encode())

    def _report(self, rows: list[dict[str, Any]], board: SummaryWriter) -> None:
        from segkit.pictures import save_learning_curve

        last = rows[-1]
        for key in last.keys() - {"epoch", "step"}:
            board.add_scalar(key, last[key], last["step"])
        save_learning_curve(self.run.folder / "curve.png", rows)
        self.on_epoch(last)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Say what to do where memory runs out; on the CPU torch says so in a plain RuntimeError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise SegkitError(
            f"expected a step to fit into memory, it does not: {str(error).splitlines()[0]}",
            hint="choose a smaller --patch or --batch-size",
        ) from error


class Stopped(KeyboardInterrupt):
    """Training was stopped, and its state saved before."""


class _StopRequest:
    """Whether Ctrl-C or SIGTERM has come."""

    requested = False

    def check(self, done: int, total: int) -> None:
        """Stop a validation: it is repeated on resume, and the steps before it have been saved."""
        if self.requested:
            raise Stopped


@contextmanager
def _stop_request(on_stop: Callable[[], None]) -> Iterator[_StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that is met after the step; a second one acts as usual."""
    stop = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers; whoever runs training elsewhere stops it another way
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        stop.requested = True
        on_stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
