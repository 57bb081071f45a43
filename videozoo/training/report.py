"""What a training run writes for people: the log, the training curve and the card of the result."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint import atomic_path
from ..evaluation.overview import nice_ticks
from ..report import describe_metrics
from .config import TrainConfig

__all__ = ["OTHER_COLUMNS", "RunLog", "curves_svg", "main_metric", "write_card"]

OTHER_COLUMNS = ("epoch", "lr", "loss", "seconds", "clips_per_second", "best")  # of the log; the rest are metrics
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 420, 260, 48, 32, 40, 24  # of one of the two plots
STYLE = """svg{background:#fff;font:12px system-ui,sans-serif;fill:#5f646d}.grid{stroke:#e3e1dc}
.line{fill:none;stroke:#1f6f78;stroke-width:2}.dot{fill:#1f6f78}.best{fill:#c8553d}.title{fill:#1d1f23;font-weight:600}"""


def main_metric(row: Mapping[str, float]) -> str | None:
    """The column of a row of the log that decides which epoch is the best: the data set's first metric."""
    return next((key for key in row if key not in OTHER_COLUMNS), None)


class RunLog:
    """``log.csv`` and ``curves.svg`` of a run, written anew after each epoch, and TensorBoard's events if asked for."""

    def __init__(self, folder: Path, logger: str, first_step: int = 0) -> None:
        self.folder = folder
        self.events = _tensorboard(folder, first_step) if logger == "tensorboard" else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.events is not None:
            self.events.close()

    def step(self, number: int, loss: float, lr: float) -> None:
        """Loss and learning rate of a step, counted from the beginning of the run."""
        if self.events is not None:
            self.events.add_scalar("train/loss", loss, number)
            self.events.add_scalar("train/lr", lr, number)

    def epoch(self, history: Sequence[Mapping[str, float]], step: int) -> None:
        """All rows so far; the last one is new and was finished after ``step`` steps."""
        write_text(self.folder / "log.csv", _csv(history))
        write_text(self.folder / "curves.svg", curves_svg(history))
        if self.events is not None:
            for key, value in history[-1].items():
                if key not in OTHER_COLUMNS:
                    self.events.add_scalar(f"val/{key}", value, step)
            self.events.flush()


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("logger='tensorboard' needs the package: pip install tensorboard.") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    out = io.StringIO()
    columns = dict.fromkeys(key for row in history for key in row if key != "best")
    writer = csv.DictWriter(out, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


# The training curve --------------------------------------------------------------------------------------------------


def curves_svg(history: Sequence[Mapping[str, float]]) -> str:
    """Loss, and beside it the main metric, over epochs; the best epoch is marked."""
    epochs = [int(row["epoch"]) for row in history]
    best = max((int(row["epoch"]) for row in history if row.get("best")), default=0)
    metric = main_metric(history[-1])
    plots = [("Training loss", [row["loss"] for row in history])]
    if metric:
        plots.append((f"Validation {metric}, %", [row[metric] for row in history]))
    parts = [_plot(i * (WIDTH + GAP), title, epochs, values, best) for i, (title, values) in enumerate(plots)]
    width = len(plots) * (WIDTH + GAP) - GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _plot(left: int, title: str, epochs: Sequence[int], values: Sequence[float], best: int) -> str:
    ticks = nice_ticks(values)
    span = max(epochs[-1] - epochs[0], 1)

    def x_of(epoch: int) -> float:
        return left + LEFT + (epoch - epochs[0]) / span * (WIDTH - LEFT - 16)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - BOTTOM - TOP)

    parts = [f'<text class="title" x="{left + LEFT}" y="18">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{left + LEFT} {y_of(tick):.1f}H{left + WIDTH - 16}"/>')
        parts.append(f'<text x="{left + LEFT - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in sorted({epochs[0], epochs[len(epochs) // 2], epochs[-1]}):
        parts.append(f'<text x="{x_of(epoch):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{left + (LEFT + WIDTH - 16) / 2}" y="{HEIGHT - 2}" text-anchor="middle">Epoch</text>')
    points = [(x_of(epoch), y_of(value)) for epoch, value in zip(epochs, values, strict=True)]
    parts.append(f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
    for epoch, value, (x, y) in zip(epochs, values, points, strict=True):
        mark = " best" if epoch == best else ""
        label = f"epoch {epoch}: {value:.4g}{', kept' if mark else ''}"
        parts.append(f'<circle class="dot{mark}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{label}</title></circle>')
    return "".join(parts)


# The card ------------------------------------------------------------------------------------------------------------


def write_card(folder: Path, model: Any, config: TrainConfig, facts: Mapping[str, str]) -> None:
    """``README.md`` of a run's folder: what the model is, how it was trained and how to use it; and ``labels.txt``.

    ``facts`` are lines of the training table that the settings do not say.
    """
    cfg = model.pretrained_cfg
    results = describe_metrics(cfg["metrics"][0]) if cfg["metrics"] else ""
    changed = {key: value for key, value in config.to_dict().items() if value != TrainConfig().to_dict()[key]}
    rows = {
        "architecture": cfg["architecture"],
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "classes": str(model.num_classes or ""),
        "started from": cfg["pretrain"] or "random weights",
        "licence of these": cfg.get("license", "") if cfg["pretrain"] else "",
        "validation": results,
        **facts,
        "settings": ", ".join(f"{key}={value}" for key, value in changed.items()) or "the defaults",
    }
    table = "\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)
    use = _usage(model, f"local-dir:{folder.name}")
    text = f"""# {folder.resolve().name}

A {use.kind}, trained with videozoo.

| | |
|---|---|
{table}

![training curve](curves.svg)

```python
{use.python}
```

```bash
{use.command}
```
"""
    write_text(folder / "README.md", text)
    labels = cfg.get("label_names") or []
    if labels:
        write_text(folder / "labels.txt", "\n".join(labels) + "\n")


class _Usage(NamedTuple):
    """What a network is, and how it is used."""

    kind: str
    python: str
    command: str


def _usage(model: Any, name: str) -> _Usage:
    """How a model that is called ``name`` is used from Python and from the command line."""
    task = getattr(model, "task", "recognition")
    if task == "localization":
        return _localizer_usage(model, name)
    kind, command = "video classifier", "predict"
    line = 'print(videozoo.predict(model, "clip.mp4", topk=5))'
    if task == "detection":
        kind, command = "detector of persons' actions", "detect"
        line = "logits = model(clips, boxes)  # (N, 3, T, H, W), and of each clip the boxes (K, 4) of its persons"
    create = f'model = videozoo.create_model("{name}", pretrained=True).eval()'
    return _Usage(kind, f"import videozoo\n\n{create}\n{line}", f"videozoo {command} clip.mp4 --model {name}")


def _localizer_usage(model: Any, name: str) -> _Usage:
    pairs = {"bsn_tem": (name, "local-dir:SECOND"), "bsn_pem": ("local-dir:FIRST", name)}  # BSN is two networks
    names = pairs.get(model.pretrained_cfg["architecture"], (name,))
    quoted = ", ".join(f'"{part}"' for part in names)
    file, function, networks = "features.npy", "localize_features", "proposal_chain(networks), [FILE]"
    imported = ["create_localizers", function, "proposal_chain"]
    if model.num_classes:  # SSN
        file, function, networks = "clip.mp4", "localize_proposals", "networks[0], FILE"
        imported = ["create_localizers", function]
    lines = [
        f"from videozoo.localization import {', '.join(imported)}",
        "",
        f"networks = create_localizers({quoted}, pretrained=True)",
        f"print({function}({networks.replace('FILE', repr(file))}).segments[:5])".replace("'", '"'),
    ]
    command = f"videozoo localize {file} --model {' --pem '.join(names)}"
    return _Usage("network that finds segments of videos", "\n".join(lines), command)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
