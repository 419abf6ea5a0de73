"""The training loop. Every step is a function of the run's config and its number, so it can stop and go on anywhere."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import SegkitError
from segkit.files import remove_drafts, write_bytes
from segkit.inference import Tiling, segment_volume
from segkit.inference.torch_engine import TorchEngine
from segkit.memory import keep_freed_memory
from segkit.metrics import confusion_matrix, dice, mean_dice
from segkit.run import Run
from segkit.store import PreparedSubject
from segkit.training.batches import Batch, PatchSource, Sampler, ahead
from segkit.training.checkpoint import Progress, load_checkpoint, save_checkpoint, save_weights
from segkit.training.initial import freeze, train_mode
from segkit.training.optimisation import build_optimizer, learning_rate
from segkit.training.processes import Processes
from segkit.training.stopping import Stopped, StopRequest, stop_request

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from segkit.registry import Registry

CHECKPOINT_SECONDS = 60
"""A checkpoint is written at least this often, so that a kill costs no more."""

VALIDATION = 1
"""Tells the random numbers of the validation patches from those of training."""


@dataclass
class _State:
    """What changes while a run is trained."""

    network: torch.nn.Module
    wrapped: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    began: float
    saved: float = field(default_factory=time.monotonic)


@dataclass
class Trainer:
    """Trains the network of a run.

    Args:
        run: where everything is written.
        registry: finds the network, the loss and the sampler.
        train: subjects that are trained on.
        held_out: subjects that are validated on, as whole volumes.
        processes: this process among those that train together.
        workers: threads that draw batches ahead of the training.
        on_step: called after every step with the number of steps done and the loss.
        on_epoch: called after every epoch with its row of metrics.csv.
        on_stop: called when Ctrl-C or SIGTERM has come; the step under way is finished first.
    """

    run: Run
    registry: Registry
    train: Sequence[PreparedSubject]
    held_out: Sequence[PreparedSubject]
    processes: Processes
    workers: int = 0
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
        config = self.run.config
        self._loss = self._build_loss()
        sampler: Sampler = self.registry.build("sampler", config.sampler)()
        source = PatchSource(self.train, sampler, config.patch, (config.seed,), self._augmentation())
        held_out = PatchSource(self.held_out, sampler, config.patch, (config.seed, VALIDATION))
        if self.processes.is_main:
            remove_drafts(self.run.folder)
        if self.processes.device == "cpu":
            keep_freed_memory()
        with deterministic(config.deterministic, config.threads), stop_request(self.on_stop) as stop:
            state = self._begin()
            with self._board(state.progress.step) as board:
                batches = ahead(lambda key: self._draw(source, *key), self._keys(state.progress.step), self.workers)
                try:
                    while not self._finished(state.progress):
                        self._train_epoch(state, batches, stop)
                        self._end_epoch(state, held_out, stop, board)
                finally:
                    batches.close()
        return state.progress

    def _begin(self) -> _State:
        import torch

        from segkit.training.layout import to_channels_last

        config, device = self.run.config, self.processes.device
        torch.manual_seed(config.seed)
        network = self.registry.build_model(config.model, config.channels, len(config.labels), config.options)
        if config.frozen:
            freeze(network, config.frozen)
        to_channels_last(network, device)
        optimizer = build_optimizer(config, network.parameters())
        scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=config.precision == "fp16")
        if self.run.last.is_file():
            progress = load_checkpoint(self.run.last, network, optimizer, scaler)
        else:
            progress = Progress()
            if config.initial:
                from safetensors.torch import load_file

                network.load_state_dict(load_file(self.run.initial), strict=False)
        began = time.monotonic() - progress.seconds
        return _State(network, self.processes.wrap(network), optimizer, scaler, progress, began)

    def _build_loss(self) -> Any:
        config = self.run.config
        card = self.registry.card("loss", config.loss)
        options: dict[str, Any] = dict(config.loss_options)
        if card.class_shares:
            options["class_shares"] = class_shares(self.train)
        return self.registry.build("loss", config.loss)(**options)

    def _augmentation(self) -> Any:
        if not self.run.config.augmentation:
            return None
        from segkit.training.augmentation import Augmentation

        return Augmentation(self.run.config.augmentation, len(self.run.config.modalities))

    def _keys(self, step: int) -> Iterator[tuple[int, int]]:
        config = self.run.config
        return ((s, micro) for s in range(step, config.steps) for micro in range(config.accumulation))

    def _draw(self, source: PatchSource, step: int, micro: int) -> Batch:
        size = self.run.config.batch_size
        first = (micro * self.processes.count + self.processes.index) * size
        drawn = step % self.run.config.steps_per_epoch if self.run.config.fixed_patches else step
        return source.draw(drawn, range(first, first + size))

    def _finished(self, progress: Progress) -> bool:
        config, rows = self.run.config, progress.rows
        if len(rows) >= config.epochs:
            return True
        if not (config.patience and rows):
            return False
        best = max(range(len(rows)), key=lambda epoch: rows[epoch]["mean_dice"])
        return len(rows) - 1 - best >= config.patience

    def _train_epoch(self, state: _State, batches: Iterator[Batch], stop: StopRequest) -> None:
        progress = state.progress
        end = (len(progress.rows) + 1) * self.run.config.steps_per_epoch
        train_mode(state.network)
        while progress.step < end:
            own_loss = self._step(state, batches)
            loss, stopping = self.processes.mean([own_loss, float(stop.requested)])
            progress.step += 1
            progress.losses.append(loss)
            self.on_step(progress.step, loss)
            if stopping or time.monotonic() - state.saved > CHECKPOINT_SECONDS:
                self._save(state)
            if stopping:
                raise Stopped

    def _step(self, state: _State, batches: Iterator[Batch]) -> float:
        """One optimizer step over `accumulation` batches; the mean of their losses."""
        import torch

        config, step = self.run.config, state.progress.step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        state.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with _memory_errors():
            for micro in range(config.accumulation):
                # Dropout draws from torch's generator: seeding it makes a resumed run equal to one that never stopped.
                place = micro * self.processes.count + self.processes.index
                seed = np.random.SeedSequence([config.seed, step, place]).generate_state(1)[0]
                torch.manual_seed(int(seed))
                last = micro == config.accumulation - 1
                with nullcontext() if last else self.processes.without_averaging(state.wrapped):
                    loss = self._forward(state.wrapped, next(batches))
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise SegkitError(
                            f"expected a finite loss, got {value} at step {step}",
                            hint="lower --learning-rate, or look at the images",
                        )
                    state.scaler.scale(loss / config.accumulation).backward()  # type: ignore[no-untyped-call]
                total += value / config.accumulation
            state.scaler.step(state.optimizer)
            state.scaler.update()
        return total

    def _forward(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        import torch

        device, precision = self.processes.device, self.run.config.precision
        images = torch.from_numpy(batch.images).to(device, memory_format=torch.channels_last_3d)
        target = torch.from_numpy(batch.target).to(device).long()
        weights = () if batch.weights is None else (torch.from_numpy(batch.weights).to(device),)
        reduced = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        with torch.autocast(device.partition(":")[0], reduced, enabled=reduced is not None):
            logits = network(images)
        loss: torch.Tensor = self._loss(logits.float(), target, IGNORE, *weights)
        return loss

    def _end_epoch(self, state: _State, held_out: PatchSource, stop: StopRequest, board: SummaryWriter | None) -> None:
        progress = state.progress
        self._save(state)
        row = self._validate(state, held_out, stop)
        progress.rows.append({**row, "seconds": round(time.monotonic() - state.began, 2)})
        progress.losses = []
        if progress.rows[-1]["mean_dice"] > progress.best or not self.run.best.is_file():
            progress.best = progress.rows[-1]["mean_dice"]
            if self.processes.is_main:
                save_weights(self.run.best, state.network)
        self._save(state)
        if board is not None:
            self._report(progress.rows, board)

    def _validate(self, state: _State, held_out: PatchSource, stop: StopRequest) -> dict[str, Any]:
        """Score whole held-out volumes, tiled without overlap: a third of the time of the final evaluation's tiling."""
        config, progress = self.run.config, state.progress
        loss = self._validation_loss(state.network, held_out)
        engine = TorchEngine(state.network, device=self.processes.device)
        tiling = Tiling(config.patch, overlap=0.0, blending="constant")
        own: list[NDArray[np.float64]] = []
        for subject in self.held_out[self.processes.index :: self.processes.count]:
            labels = segment_volume(engine, subject.images, subject.mask, tiling, stop.check)
            own.append(dice(confusion_matrix(subject.label, labels, len(config.labels))))
        mean = np.nanmean(np.stack(self.processes.gather(own)), axis=0)
        return {
            "epoch": len(progress.rows) + 1,
            "step": progress.step,
            "learning_rate": learning_rate(config, progress.step - 1),
            "loss": float(np.mean(progress.losses)),
            "validation_loss": loss,
            "mean_dice": mean_dice(mean, background=False),
            **{f"dice_{label.name}": float(score) for label, score in zip(config.labels, mean, strict=True)},
        }

    def _validation_loss(self, network: torch.nn.Module, held_out: PatchSource) -> float:
        """Mean loss over fixed patches of the held-out subjects, one at a time, the same in every epoch."""
        import torch

        network.eval()
        with torch.no_grad():
            numbers = range(self.run.config.validation_patches)
            own = [
                float(self._forward(network, held_out.draw(0, [n])))
                for n in numbers[self.processes.index :: self.processes.count]
            ]
        return float(np.mean(self.processes.gather(own)))

    def _save(self, state: _State) -> None:
        state.saved = time.monotonic()
        if not self.processes.is_main:
            return
        progress = state.progress
        progress.seconds = time.monotonic() - state.began
        save_checkpoint(self.run.last, state.network, state.optimizer, state.scaler, progress)
        if progress.rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(progress.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(progress.rows)
            write_bytes(self.run.folder / "metrics.csv", text.getvalue().encode())

    @contextmanager
    def _board(self, step: int) -> Iterator[SummaryWriter | None]:
        """The log, written by one process; what a run that was killed logged after its checkpoint is dropped."""
        if not self.processes.is_main:
            yield None
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.run.folder / "tensorboard", purge_step=step) as board:
            yield board

    def _report(self, rows: list[dict[str, Any]], board: SummaryWriter) -> None:
        from segkit.pictures import save_learning_curve

        last = rows[-1]
        for key in last.keys() - {"epoch", "step"}:
            board.add_scalar(key, last[key], last["step"])
        save_learning_curve(self.run.folder / "curve.png", rows)
        self.on_epoch(last)


def class_shares(subjects: Sequence[PreparedSubject]) -> list[float]:
    """Share of each class, 0 to 1, among the voxels of some subjects that are not ignored."""
    counts = np.sum([subject.class_counts for subject in subjects], axis=0)
    return [float(count) for count in counts / counts.sum()]


@contextmanager
def deterministic(wanted: bool, threads: int) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits each time, on a fixed number of CPU threads."""
    if not wanted:
        yield
        return
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
        torch.backends.cudnn.benchmark = before[2]


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
