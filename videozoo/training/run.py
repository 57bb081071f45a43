"""``finetune``: a whole training run in a folder that can be interrupted at any time and loaded at the end."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import catalog
from ..checkpoint import CheckpointError, atomic_path
from ..console import say
from ..data import create_transform
from ..data.datasets import Dataset
from ..evaluation.recognition import evaluate
from ..factory import create_model
from ..hub import save_pretrained
from ..names import nearest_names
from .averaging import ema_model
from .clips import ClipBatches, TrainingClips, training_loader
from .config import TrainConfig
from .loop import WithAuxiliary, training_steps
from .normalization import freeze_norm_parameters, precise_batch_norm, train_mode
from .parameters import freeze_stages, make_optimizer, scaled_lr, set_probing
from .report import OTHER_COLUMNS, RunLog, main_metric, write_card
from .schedules import learning_rate_factor

__all__ = ["TrainingResult", "finetune", "prepare_model"]

CHECKPOINT = "checkpoint.pt"
FREE_TO_CHANGE = ("workers", "compile", "logger", "checkpoint_every", "patience")  # a resumed run may differ in these
INPUT_KEYS: dict[str, tuple[tuple[str, str], ...]] = {  # of TrainConfig.input: tables and keys of pretrained_cfg
    "num_frames": (("sampling", "frames"),),
    "stride": (("sampling", "stride"),),
    "sampling": (("sampling", "kind"), ("test", "kind")),
    "segments": (("sampling", "segments"), ("test", "segments")),
    "size": (("", "size"), ("test", "size")),
    "resize": (("train", "resize"), ("test", "resize")),
    "keep_ratio": (("test", "keep_ratio"),),
} | {key: (("test", key),) for key in ("clips", "crops", "average", "positions")}


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
    best: float | None = None
    stale: int = 0
    """Epochs since the best one."""
    finished: bool = False
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
    """Training videos that could not be read in this process, with the reason."""


def prepare_model(
    name: str,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    pretrained: bool = True,
    checkpoint_path: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A model for the classes of ``dataset``, on published weights: with a new classifier, unless the classes are those
    that the model was trained on.

    ``config.init="imagenet"`` starts from ImageNet weights in place of the published ones; ``config.input`` may change
    what one input is (num_frames, stride, size, ...) and the test protocol. What is random is drawn
    with ``config.seed``. ``kwargs`` go to ``create_model``.
    """
    config = config or TrainConfig()
    if config.init:
        kwargs["init"], pretrained = config.init, False
    if config.dropout is not None:
        kwargs["drop_rate"] = config.dropout
    if checkpoint_path is not None:
        pretrained = False
    weights = {"pretrained": pretrained, "checkpoint_path": checkpoint_path, "cache_dir": cache_dir}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(name, num_classes=dataset.num_classes, **weights, **kwargs)
        cfg = model.pretrained_cfg
        known = catalog.label_names(cfg)
        if known != list(dataset.class_names) and (known or cfg.get("dataset") != dataset.name):
            model.reset_classifier(dataset.num_classes)
    entry = catalog.find_entry(name)
    is_registered = dataset.name in catalog.datasets()
    model.pretrained_cfg = {
        **_with_input(dict(cfg), config.input),
        "name": "",
        "tag": "",
        "dataset": dataset.name if is_registered else "",
        "labels": "",
        "label_names": list(dataset.class_names) or None,
        "multi_label": dataset.multi_label,
        "metrics": (),
        "pretrain": (entry.full_name if entry else name) if pretrained else cfg.get("pretrain", ""),
    }
    model.has_published_weights = False
    return model


def _with_input(cfg: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``pretrained_cfg`` with other values of the keys that a data config has; ValueError for other keys."""
    sampling, test = dict(cfg.get("sampling") or catalog.SAMPLING), dict(cfg.get("test") or catalog.TEST)
    train = dict(cfg.get("train") or {})
    tables = {"sampling": sampling, "test": test, "train": train, "": cfg}
    for key, value in changes.items():
        places = INPUT_KEYS.get(key)
        if places is None:
            raise ValueError(f"input has no key {key!r}: did you mean {' or '.join(nearest_names(key, INPUT_KEYS))}?")
        for table, name in places:
            tables[table][name] = value
    return cfg | {"sampling": sampling, "test": test, "train": train}


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

    Under ``torchrun`` or ``accelerate launch`` the processes share each step's clips.

    Args:
        model: as made by :func:`prepare_model`.
        val: validated after each epoch by the model's own test protocol; None keeps the last epoch.
        device: "auto" is what accelerate finds; "cpu" keeps it from using a GPU.
        restart: begin anew, whatever the folder holds.
        progress: show a bar on stderr.
        log: takes lines for people.

    Raises:
        ValueError: the folder holds another run, or data and model do not fit.
        TrainingError: the loss is not a number.
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
        self.transform = create_transform(model, is_training=True, **config.data)
        self.clips = TrainingClips(train, self.transform, seed=config.seed)
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
        self.loader = training_loader(self.clips, batches, config.workers, self.accelerator.device)
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
        saved = None if restart else self._read_checkpoint()
        if saved is None:
            _check_folder(self.folder, restart)
            self._announce()
        else:
            self._restore(saved)
            self.log(f"{self.folder}: going on after {state.epoch} epochs and {state.step} of {self.steps} steps")
        with self._run_log() as run_log:
            for probing, last in ((True, min(config.probe_epochs, config.epochs)), (False, config.epochs)):
                if state.epoch < last and not state.finished:
                    self._train_until(last, probing, saved, run_log)
        self.accelerator.end_training()
        return TrainingResult(self.folder, list(state.history), self._best_row(), dict(self.unread))

    def _train_until(self, last: int, probing: bool, saved: dict[str, Any] | None, run_log: RunLog | None) -> None:
        """The epochs of one phase, which has an optimiser of its own."""
        config, state = self.config, self.state
        set_probing(self.model, probing)
        raw = make_optimizer(self.model, config, self.lr)
        if saved is not None and saved["probing"] == probing:
            raw.load_state_dict(saved["optimizer"])
        network, self.optimizer = self.accelerator.prepare(WithAuxiliary(self.model), raw)
        network = torch.compile(network) if config.compile else network
        self.probing = probing
        while state.epoch < last and not state.finished:
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
        config, state, start, before = self.config, self.state, time.monotonic(), self.state.step
        train_mode(self.model, config.freeze_bn)
        steps = training_steps(
            network,
            self._loaded(state.epoch, state.step),
            self.optimizer,
            self.accelerator,
            transform=self.transform,
            config=config,
            num_classes=self.model.num_classes,
            multi_label=self.train.multi_label,
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
                self._report_unread(step.unread)
                if self.ema is not None:
                    self.ema.update_parameters(self.model)
                if run_log is not None:
                    run_log.step(state.epoch * self.steps + step.number, loss, step.lr)
                if config.checkpoint_every and state.step % config.checkpoint_every == 0 and state.step < self.steps:
                    self._save_checkpoint()
                bar.set_postfix_str(f"loss {state.loss_sum / state.step:.3f}", refresh=False)
                bar.update()
        seconds = time.monotonic() - start
        clips = (state.step - before) * self.clips_per_pass * config.accumulate
        if config.precise_bn:
            self._refresh_statistics()
        return {
            "epoch": state.epoch + 1,
            "lr": state.lr,
            "loss": state.loss_sum / state.step,
            "seconds": seconds,
            "clips_per_second": clips / seconds,
        }

    def _loaded(self, epoch: int, start: int = 0) -> DataLoader:
        """The batches of an epoch from step ``start`` on."""
        batches = self.loader.batch_sampler
        batches.epoch, batches.start = epoch, start * self.config.accumulate
        return self.loader

    def _refresh_statistics(self) -> None:
        """Batch-norm statistics over training clips, for the weights as they are now."""
        device = self.accelerator.device
        clips = (self.transform.normalize(batch.frames, device) for batch in self._loaded(self.state.epoch))
        precise_batch_norm(self.model, clips, self.config.precise_bn)

    def _report_unread(self, unread: dict[str, str]) -> None:
        for path, reason in unread.items():
            if path not in self.unread:
                self.unread[path] = reason
                say(f"warning: {path} cannot be read and is replaced by another video: {reason}")

    def _validate(self) -> dict[str, float]:
        """The data set's metrics in percent; none without validation videos."""
        if self.val is None:
            return {}
        config = self.config
        result = evaluate(
            self.best_model,
            self.val,
            views=config.val_views,
            workers=config.workers,
            amp_dtype="none" if config.precision == "no" else config.precision,
        )
        for failure in result.failures:
            self._report_unread({failure.video: failure.reason})
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
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.finished = bool(self.config.patience) and state.stale >= self.config.patience
        return is_best

    def _best_row(self) -> dict[str, float]:
        return next((row for row in reversed(self.state.history) if row["best"]), {})

    # ------------------------------------------------------------------ what is kept

    def _save_models(self, is_best: bool) -> None:
        model, row = self.best_model, self.state.history[-1]
        numbers = {key: round(row[key], 2) for key in row if key not in OTHER_COLUMNS}
        protocol = {} if self.config.val_views == "full" else {"protocol": "one view"}
        origin = f"measured on the validation videos after epoch {row['epoch']}"
        cfg = {**self.model.pretrained_cfg, "metrics": ({**numbers, **protocol, "origin": origin},) if numbers else ()}
        model.pretrained_cfg, model.has_published_weights = cfg, True
        for folder in (self.folder / "last", *[self.folder] * is_best):
            save_pretrained(model, folder)
        if is_best:
            counts = {"training videos": len(self.train), "validation videos": len(self.val) if self.val else 0}
            facts = {**{key: str(count) for key, count in counts.items() if count}, "learning rate": f"{self.lr:g}"}
            write_card(self.folder, model, self.config, facts | {"epoch": f"{row['epoch']} of {self.config.epochs}"})

    def _fingerprint(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was interrupted."""
        settings = {key: value for key, value in self.config.to_dict().items() if key not in FREE_TO_CHANGE}
        cfg = self.model.pretrained_cfg
        videos = {name: _digest(part) for name, part in (("train", self.train), ("val", self.val))}
        facts = {key: cfg.get(key) for key in ("architecture", "model_args", "pretrain")}
        return {**settings, **facts, "clips_per_pass": self.clips_per_pass, **videos}

    def _save_checkpoint(self) -> None:
        """Everything that the next step depends on, by the first process; the others wait for it."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            content = {
                "fingerprint": json.dumps(self._fingerprint(), sort_keys=True),
                "state": asdict(self.state),
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "probing": self.probing,
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            with atomic_path(self.folder / CHECKPOINT) as temporary:
                torch.save(content, temporary)
        self.accelerator.wait_for_everyone()

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            before = json.loads(saved["fingerprint"])
        except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
            raise CheckpointError(f"{path} is damaged: delete it, or begin anew with restart.") from error
        now = json.loads(json.dumps(self._fingerprint()))
        changed = [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with other settings ({'; '.join(changed)}): go on with the same ones, "
                "begin anew with restart, or choose another folder."
            )
        return saved

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        if saved["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        for key, value in saved["state"].items():
            setattr(self.state, key, value)

    # ------------------------------------------------------------------ what is said

    def _announce(self) -> None:
        config, model, processes = self.config, self.model, self.accelerator.num_processes
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        step = self.clips_per_pass * config.accumulate
        how = " x ".join(map(str, (config.batch_size, processes, config.accumulate)))
        self.log(
            f"{model.pretrained_cfg['architecture']}: {trained / 1e6:.2f} M of "
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters learn, on {self.accelerator.device}"
            + (f" and {processes - 1} more" if processes > 1 else "")
        )
        self.log(
            f"{len(self.train)} training videos, {len(self.val) if self.val is not None else 0} for validation, "
            f"{self.train.num_classes} classes; {self.steps} steps an epoch of {step} clips "
            f"({how}: clips x processes x accumulated passes)"
        )
        scaled = f"{config.lr:g} for {config.lr_batch} clips, scaled" if config.scale_lr else "as given"
        self.log(f"learning rate {self.lr:g} ({scaled})")


def _accelerator(config: TrainConfig, device: str) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ImportError("training needs Hugging Face accelerate: pip install 'videozoo[train]'.") from error
    if device not in ("auto", "cpu"):
        raise ValueError(f"device={device!r}: use 'auto' or 'cpu', and CUDA_VISIBLE_DEVICES to choose among GPUs.")
    AcceleratorState._reset_state()  # or an earlier run in this process would fix the precision of this one
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision=config.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise ValueError(f"precision {config.precision!r} is not possible on this device: {error}") from error


def _check_folder(folder: Path, restart: bool) -> None:
    if not restart and (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder} holds a model and no run to go on with: choose another folder, or begin with restart."
        )


def _digest(dataset: Dataset | None) -> str:
    """Of the videos and labels of a data set, not of its place."""
    digest = hashlib.sha256()
    for sample in dataset or ():
        digest.update(f"{sample.path} {sample.start} {sample.num_frames} {sample.label}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def _describe(row: dict[str, float], epochs: int, is_best: bool) -> str:
    numbers = "".join(f", {key} {row[key]:.2f}" for key in row if key not in OTHER_COLUMNS)
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}{numbers}{' (best)' if is_best and numbers else ''}, "
        f"{row['seconds']:.0f} s, {row['clips_per_second']:.1f} clips/s"
    )
