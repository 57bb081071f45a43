"""``finetune``: a whole training run in a folder that can be interrupted at any time and loaded at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..console import say
from ..data import create_transform
from ..data.datasets import Dataset
from ..evaluation.recognition import UNREADABLE, check_modality, reason_of, video_labels
from ..evaluation.result import OWN_VALIDATION
from ..hub import save_pretrained
from ..layers import weights_channels_last
from .averaging import ema_model
from .checkpoints import fingerprint, read_checkpoint, remove_unfinished, write_checkpoint
from .clips import ClipBatches, training_loader
from .config import TrainConfig
from .loop import TrainingError, training_steps
from .normalization import freeze_norm_parameters, precise_batch_norm, train_mode
from .parameters import classifier_parameters, freeze_stages, make_optimizer, scaled_lr, set_probing
from .report import OTHER_COLUMNS, RunLog, main_metric, write_card
from .schedules import learning_rate_factor
from .tasks import make_task

__all__ = ["TrainingResult", "finetune"]

LONGEST_WAIT = timedelta(days=30)  # of a process that is done, for the slowest one


@dataclass
class _State:
    """Where a run is: what its checkpoint holds beside tensors."""

    epoch: int = 0
    """The epoch that comes next, or is under way."""
    step: int = 0
    """Steps of it that are done."""
    lr: float = 0.0
    """At the last step."""
    loss_sum: float = 0.0
    """Over these steps."""
    seconds: float = 0.0
    """That they took."""
    best: float | None = None
    stale: int = 0
    """Epochs since the best one."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row for each finished epoch."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves: the best model is in ``folder``, the last one in ``folder / "last"``."""

    folder: Path
    history: list[dict[str, float]]
    """For each epoch epoch, lr, loss, the data set's metrics in percent (top1, ...), seconds, clips_per_second."""
    best: dict[str, float]
    """The row of the epoch whose weights are kept: with the best first metric, else the last one."""
    unread: dict[str, str]
    """Videos that this process could not read, with the reason."""


def finetune(
    model: nn.Module,
    train: Dataset,
    val: Dataset | None,
    folder: str | os.PathLike,
    config: TrainConfig | None = None,
    *,
    device: str = "auto",
    restart: bool = False,
    progress: bool = False,
    log: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train ``model`` on ``train`` and keep in ``folder`` what is needed to use it and to go on after an interruption.

    ``folder`` gets the model with the best validation (``config.json``, ``model.safetensors``, for ``create_model(
    "local-dir:...")``), ``last/`` with that of the last epoch, ``labels.txt``, a card (``README.md``), the training
    curve (``curves.svg``), ``log.csv`` and ``checkpoint.pt``. The same call on such a folder goes on where it stopped,
    with the same numbers as without the interruption.

    Under ``torchrun`` or ``accelerate launch`` the processes share each step's clips, and stay a group.

    Args:
        model: as made by :func:`prepare_model`.
        val: validated after each epoch by the model's own test protocol; None keeps the last epoch.
        device: "auto" is what accelerate finds; "cpu" keeps it from using a GPU.
        restart: begin anew, whatever the folder holds.
        progress: show a bar on stderr.
        log: takes lines for people.

    Raises:
        ValueError: the folder holds another run, data and model do not fit, or no validation video can be read.
        OSError: the folder cannot be written.
        TrainingError: the loss, or a score of the validation, is not a number.
    """
    run = _Run(model, train, val, Path(folder), config or TrainConfig(), device)
    return run.run(restart=restart, progress=progress, log=log or (lambda text: None))


class _Run:
    """The parts of one run, made once; ``run`` is the story."""

    def __init__(
        self, model: nn.Module, train: Dataset, val: Dataset | None, folder: Path, config: TrainConfig, device: str
    ) -> None:
        self.model, self.train, self.val, self.folder, self.config = model, train, val, folder, config
        self.accelerator = _accelerator(config, device)
        if getattr(model, "task", "recognition") == "recognition":
            _check_videos(train, val, model)
        if val is None and config.patience:
            raise ValueError(f"patience={config.patience} waits for a better validation: give validation videos, or 0.")
        self.task = make_task(model, train, val, config, self.accelerator)
        self.clips_per_pass = config.batch_size * self.accelerator.num_processes
        batches = ClipBatches(
            train,
            config.batch_size,
            seed=config.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            repeats=config.repeats,
            class_balanced=config.class_balanced,
        )
        device, collate = self.accelerator.device, self.task.collate
        self.loader = training_loader(self.task.clips, batches, config.workers, device, collate)
        self.steps = len(batches) // config.accumulate
        if self.steps == 0:
            raise ValueError(
                f"a step takes {self.clips_per_pass * config.accumulate} clips, there are {len(train)} training "
                "videos: lower accumulate."
            )
        if config.sync_bn and self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            self.model = model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        freeze_stages(model, config.freeze_stages)
        freeze_norm_parameters(model, config.freeze_bn)
        model.to(self.accelerator.device)
        _set_memory_options(model, config)
        self.lr = scaled_lr(config, self.clips_per_pass * config.accumulate)
        self.ema = ema_model(model, config.ema) if config.ema else None
        self.unread: dict[str, str] = {}
        self.state = _State()
        after = tuple(epoch - config.probe_epochs for epoch in config.milestones)
        self.rest_config = config.replace(epochs=max(config.epochs - config.probe_epochs, 1), milestones=after)
        self.optimizer: Any = None
        self.probing = False

    @property
    def best_model(self) -> nn.Module:
        """What is validated and kept: the moving average, where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def run(self, *, restart: bool, progress: bool, log: Callable[[str], None]) -> TrainingResult:
        """Epoch after epoch: train, validate, keep; first the classifier alone, then everything."""
        config, state, is_first = self.config, self.state, self.accelerator.is_main_process
        self.log = log if is_first else lambda text: None
        self.progress = progress and is_first
        if is_first:
            remove_unfinished(self.folder)
        saved = None if restart else read_checkpoint(self.folder, self._fingerprint())
        self._check_processes(saved)
        if saved is None:
            _check_folder(self.folder, restart)
            self._announce()
        else:
            self._restore(saved)
            self.log(f"{self.folder}: {self._progress()}")
        with self._run_log() as run_log:
            for probing, last in ((True, min(config.probe_epochs, config.epochs)), (False, config.epochs)):
                if state.epoch < last and not self._is_stale:
                    self._train_until(last, probing, saved, run_log)
        return TrainingResult(self.folder, list(state.history), self._best_row(), dict(self.unread))

    @property
    def _is_stale(self) -> bool:
        """Whether validation has not become better for as long as ``patience`` says."""
        return bool(self.config.patience) and self.state.stale >= self.config.patience

    def _train_until(self, last: int, probing: bool, saved: dict[str, Any] | None, run_log: RunLog | None) -> None:
        """The epochs of one phase, which has an optimiser of its own."""
        config, state = self.config, self.state
        set_probing(self.model, probing)
        raw = make_optimizer(self.model, config, self.lr)
        if saved is not None and saved["probing"] == probing:
            raw.load_state_dict(saved["optimizer"])
        network, self.optimizer = self.accelerator.prepare(self.task.network(self.model), raw)
        network = torch.compile(network) if config.compile else network
        self.probing = probing
        if saved is None and not state.epoch:
            self._save_checkpoint()  # from here on the folder is that of this run, or it is told that it cannot be
        while state.epoch < last and not self._is_stale:
            row = self._train_epoch(network, run_log) | self._validate()
            is_best = self._judge(row)
            if run_log is not None:
                self._save_models(is_best)
                run_log.epoch(state.history, state.epoch * self.steps)
                self.log(_describe(row, config.epochs, is_best))
            self._save_checkpoint()

    def _run_log(self) -> Any:
        first = self.state.epoch * self.steps + self.state.step
        return RunLog(self.folder, self.config.logger, first) if self.accelerator.is_main_process else nullcontext()

    # ------------------------------------------------------------------ one epoch

    def _lr_factor(self, step: int) -> float:
        """Factor of the learning rate at a step of the current epoch; the schedule begins after the probe."""
        config = self.config
        if config.probe_epochs >= config.epochs:
            return learning_rate_factor(self.state.epoch * self.steps + step, self.steps, config)
        if self.probing:
            return 1.0
        done = (self.state.epoch - config.probe_epochs) * self.steps + step
        return learning_rate_factor(done, self.steps, self.rest_config)

    def _train_epoch(self, network: nn.Module, run_log: RunLog | None) -> dict[str, float]:
        """Train what is left of the epoch; its row of the log."""
        config, state, before = self.config, self.state, self.state.step
        start = time.monotonic() - state.seconds
        train_mode(self.model, config.freeze_bn)
        steps = training_steps(
            network,
            self._loaded(state.epoch, state.step),
            self.optimizer,
            self.accelerator,
            self.task,
            config=config,
            lr_factor=self._lr_factor,
            epoch=state.epoch,
            start=state.step,
        )
        text = f"epoch {state.epoch + 1}/{config.epochs}"
        with tqdm(
            desc=text, total=self.steps, initial=before, unit="step", disable=not self.progress, leave=False
        ) as bar:
            for step in steps:
                loss = self.accelerator.reduce(step.loss, "mean").item()
                state.loss_sum, state.step, state.lr = state.loss_sum + loss, step.number + 1, step.lr
                state.seconds = time.monotonic() - start
                self._report_unread(step.unread, "is replaced by another video")
                if self.ema is not None:
                    self.ema.update_parameters(self.model)
                if run_log is not None:
                    run_log.step(state.epoch * self.steps + step.number, loss, step.lr)
                if config.checkpoint_every and state.step % config.checkpoint_every == 0 and state.step < self.steps:
                    self._save_checkpoint()
                bar.set_postfix_str(f"loss {state.loss_sum / state.step:.3f}", refresh=False)
                bar.update()
        if self.val is not None and state.step > before:
            self._save_checkpoint()  # validation may take longer than the epoch
        if config.precise_bn:
            self._refresh_statistics()
        return {
            "epoch": state.epoch + 1,
            "lr": state.lr,
            "loss": state.loss_sum / state.step,
            "seconds": state.seconds,
            "clips_per_second": state.step * self.clips_per_pass * config.accumulate / state.seconds,
        }

    def _loaded(self, epoch: int, start: int = 0) -> DataLoader:
        """The batches of an epoch from step ``start`` on."""
        batches = self.loader.batch_sampler
        batches.epoch, batches.start = epoch, start * self.config.accumulate
        return self.loader

    def _refresh_statistics(self) -> None:
        """Batch-norm statistics over training clips, for the weights as they are now."""
        clips = (self.task.inputs(batch) for batch in self._loaded(self.state.epoch))
        precise_batch_norm(self.model, clips, self.config.precise_bn)

    def _report_unread(self, unread: dict[str, str], consequence: str) -> None:
        for path, reason in unread.items():
            if path not in self.unread:
                self.unread[path] = reason
                say(f"warning: {path} cannot be read and {consequence}: {reason}")

    def _share_statistics(self) -> None:
        """Batch norms have seen other clips in each process: all go on with those of the first, which are kept."""
        from accelerate.utils import broadcast

        for model in (self.model, *([self.ema.module] if self.ema is not None else [])):
            broadcast(list(model.buffers()))

    def _validate(self) -> dict[str, float]:
        """The data set's metrics in percent; none without validation videos."""
        if self.val is None:
            return {}
        self._share_statistics()
        try:
            result = self.task.validate(self.best_model)
        except ValueError as error:  # videos and labels were looked at before the first epoch
            epoch = self.state.epoch + 1
            raise TrainingError(
                f"epoch {epoch} cannot be validated: {error} Has it diverged, try a smaller lr."
            ) from error
        if self.accelerator.is_main_process:
            root = getattr(self.val, "root", Path())
            unread = {str(root / failure.video): failure.reason for failure in result.failures}
            self._report_unread(unread, "is left out of the validation")
        if not result.videos:
            raise ValueError(f"no validation video of {self.val.source} can be read.")
        return result.metrics

    def _judge(self, row: dict[str, float]) -> bool:
        """Take a finished epoch into the state; whether its weights are the best so far."""
        state = self.state
        key = main_metric(row)
        is_best = key is None or state.best is None or row[key] > state.best
        state.stale = 0 if is_best else state.stale + 1
        if is_best and key is not None:
            state.best = row[key]
        state.history.append({**row, "best": float(is_best)})
        state.epoch, state.step, state.loss_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0
        return is_best

    def _best_row(self) -> dict[str, float]:
        return next((row for row in reversed(self.state.history) if row["best"]), {})

    # ------------------------------------------------------------------ what is kept

    def _save_models(self, is_best: bool) -> None:
        model, row = self.best_model, self.state.history[-1]
        numbers = {key: round(row[key], 2) for key in row if key not in OTHER_COLUMNS}
        protocol = {} if self.config.val_views == "full" else {"protocol": "one view"}
        origin = f"{OWN_VALIDATION} after epoch {row['epoch']}"
        cfg = {**self.model.pretrained_cfg, "metrics": ({**numbers, **protocol, "origin": origin},) if numbers else ()}
        model.pretrained_cfg, model.has_published_weights = cfg, True
        for folder in (self.folder / "last", *[self.folder] * is_best):
            save_pretrained(model, folder)
        if is_best:
            counts = {"training videos": len(self.train), "validation videos": len(self.val) if self.val else 0}
            facts = {**{key: str(count) for key, count in counts.items() if count}, "learning rate": f"{self.lr:g}"}
            write_card(self.folder, model, self.config, facts | {"epoch": f"{row['epoch']} of {self.config.epochs}"})

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.config, self.model.pretrained_cfg, self.clips_per_pass, self.train, self.val)

    def _save_checkpoint(self) -> None:
        """Everything that the next step depends on, by the first process; the others wait for it."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            content = {
                "state": asdict(self.state),
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "probing": self.probing,
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            write_checkpoint(self.folder, self._fingerprint(), content)
        self.accelerator.wait_for_everyone()

    def _check_processes(self, saved: dict[str, Any] | None) -> None:
        """ValueError unless all processes have the same run, and go on from the same place."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            place = (saved["state"]["epoch"], saved["state"]["step"]) if saved else None
            if len(set(gather_object([json.dumps([place, self._fingerprint()], sort_keys=True)]))) > 1:
                raise ValueError(
                    f"the processes do not go on from the same place, or have not the same videos: {self.folder} and "
                    "the data must be the same on all machines."
                )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        if saved["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        for key, value in saved["state"].items():
            setattr(self.state, key, value)

    # ------------------------------------------------------------------ what is said

    def _progress(self) -> str:
        state, config = self.state, self.config
        if state.epoch >= config.epochs:
            return "the run is finished"
        if self._is_stale:
            return f"the run is finished: no better validation in {state.stale} epochs"
        return f"going on after {state.epoch} epochs and {state.step} of {self.steps} steps"

    def _announce(self) -> None:
        config, model, processes = self.config, self.model, self.accelerator.num_processes
        self.log(
            f"{model.pretrained_cfg['architecture']}: {_what_learns(model, config)}, on {self.accelerator.device}"
            + (f" and {processes - 1} more" if processes > 1 else "")
        )
        classes = f"{model.num_classes} classes; " if model.num_classes else ""
        noun, how = self.task.noun, " x ".join(map(str, (config.batch_size, processes, config.accumulate)))
        self.log(
            f"{len(self.train)} training videos, {len(self.val) if self.val is not None else 0} for validation, "
            f"{classes}{self.steps} step{'s' * (self.steps > 1)} an epoch of "
            f"{self.clips_per_pass * config.accumulate} {noun} ({how}: {noun} x processes x accumulated passes)"
        )
        scaled = f"{config.lr:g} for {config.lr_batch} {noun}, scaled" if config.scale_lr else "as given"
        self.log(f"learning rate {self.lr:g} ({scaled})")


def _what_learns(model: nn.Module, config: TrainConfig) -> str:
    total = f"of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters learn"
    if config.probe_epochs >= config.epochs:
        head = sum(p.numel() for p in map(model.get_parameter, classifier_parameters(model)))
        return f"{head:,} {total}, those of the classifier"
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    after = f" after {config.probe_epochs} epoch{'s' * (config.probe_epochs > 1)} of the classifier alone"
    return f"{learning:.2f} M {total}{after if config.probe_epochs else ''}"


def _accelerator(config: TrainConfig, device: str) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ImportError("training needs Hugging Face accelerate: pip install 'videozoo[train]'.") from error
    if device not in ("auto", "cpu"):
        raise ValueError(f"device={device!r}: use 'auto' or 'cpu', and CUDA_VISIBLE_DEVICES to choose among GPUs.")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.precision):
        raise ValueError(
            f"accelerate was told to use {launched}, the run precision {config.precision}: give the run precision "
            f"{launched} too, or tell 'accelerate launch' --mixed_precision no."
        )
    # or an earlier run in this process would fix precision and device of this one; its group of processes stays
    AcceleratorState._reset_state(reset_partial_state=not (dist.is_available() and dist.is_initialized()))
    handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        InitProcessGroupKwargs(timeout=LONGEST_WAIT),
    ]
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=config.precision, kwargs_handlers=handlers)
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU: use bf16, which a CPU knows as well, or no.")
    return accelerator


def _set_memory_options(model: nn.Module, config: TrainConfig) -> None:
    """Layout of clips and weights, checkpointing; ValueError where the model has no blocks to checkpoint."""
    model.channels_last = config.channels_last
    if config.channels_last or next(model.parameters()).device.type == "cpu":
        weights_channels_last(model)
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(config.grad_checkpointing)
    elif config.grad_checkpointing:
        raise ValueError(f"grad_checkpointing needs blocks, {type(model).__name__} has none: leave it out.")


def _check_videos(train: Dataset, val: Dataset | None, model: nn.Module) -> None:
    """ValueError, before anything is trained, for a single class, and for videos that cannot be validated."""
    if train.num_classes < 2 and not train.multi_label:
        raise ValueError(f"{train.source} has videos of one class only, {train.class_names}: add those of others.")
    if val is not None:
        _check_validation(val, model)


def _check_validation(dataset: Dataset, model: nn.Module) -> None:
    """ValueError for what validation would stumble upon after the first epoch."""
    transform = create_transform(model)
    check_modality(transform, dataset)
    video_labels(dataset, model)
    if transform.config["modality"] == "audio":
        return  # silence stands for what cannot be read
    reasons = {}
    for number in range(len(dataset)):
        try:
            dataset.open(number).close()
            return
        except UNREADABLE as error:
            reasons[str(dataset.path(number))] = reason_of(error)
    path, reason = next(iter(reasons.items()))
    raise ValueError(
        f"none of {len(dataset)} validation videos of {dataset.source} can be read: check the data set. "
        f"{path}: {reason}"
    )


def _check_folder(folder: Path, restart: bool) -> None:
    if not restart and (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder} holds a model and no run to go on with: choose another folder, or begin with restart."
        )


def _describe(row: dict[str, float], epochs: int, is_best: bool) -> str:
    numbers = "".join(f", {key} {row[key]:.2f}" for key in row if key not in OTHER_COLUMNS)
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}{numbers}{' (best)' if is_best and numbers else ''}, "
        f"{row['seconds']:.0f} s, {row['clips_per_second']:.1f} clips/s"
    )
