"""The README.md of a Hub repository, from the model's `config.json`."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import catalog

REDISTRIBUTABLE = frozenset(  # licences of weights that allow it; those that the Hub has names for
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0".split()
)
_KINDS = {  # of model: the Hub's task, further tags
    "recognition": ("video-classification", ["action-recognition"]),
    "audio": ("audio-classification", ["action-recognition"]),
    "detection": (None, ["action-detection"]),
    "localization": (None, ["temporal-action-localization"]),
}
MAX_CLASSES = 50  # that are named


def model_card(config: Mapping[str, Any], repo_id: str, parameters: int, protocol: str = "") -> str:
    """Text of the card: front matter that the Hub indexes (licence, tags, results), facts and how to use the model.

    `config` is the content of `config.json` as `save_pretrained` writes it, `protocol` says in words how results were
    measured that do not say it themselves.
    """
    from huggingface_hub import ModelCardData

    cfg = config.get("pretrained_cfg", {})
    dataset = cfg.get("dataset")
    pipeline, tags = _KINDS[_kind(cfg)]
    results = list(_results(cfg, protocol))
    data = ModelCardData(
        library_name="videozoo",
        pipeline_tag=pipeline,
        tags=[tag for tag in ("videozoo", *tags, cfg.get("family"), dataset) if tag],
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(metric for metric, *_ in results)) or None,
        model_name=repo_id.split("/")[-1],
        eval_results=_eval_results(cfg, results, pipeline or tags[0]) or None,
        **_license(cfg.get("license", "")),
    )
    body = [*_usage(config, cfg, repo_id), *_facts(config, cfg, parameters, protocol), *_tables(cfg, results)]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(body) + "\n"


def _kind(cfg: Mapping[str, Any]) -> str:
    return "audio" if cfg.get("modality") == "audio" else cfg.get("task", "recognition")


def _classes(config: Mapping[str, Any]) -> str:
    """Their number, and their names where they are few and those of no known data set."""
    names = config.get("label_names") or []
    if len(names) > MAX_CLASSES or config.get("pretrained_cfg", {}).get("dataset") or not names:
        return str(config["num_classes"])
    return f"{len(names)}: " + ", ".join(names).replace("|", "\\|").replace("\n", " ")


def _license(name: str) -> dict[str, str]:
    if not name:
        return {}
    known = name.lower()
    if known in REDISTRIBUTABLE:
        return {"license": known}
    return {"license": "other", "license_name": known.replace(" ", "-")}


def _results(cfg: Mapping[str, Any], protocol: str) -> Iterator[tuple[str, float, str, str]]:
    """(metric, value, protocol, partner) of each published number; the partner's scores were fused with the model's."""
    for row in cfg.get("metrics", ()):
        for metric, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield metric, value, str(row.get("protocol", protocol)), str(row.get("fused_with", ""))


def _eval_results(cfg: Mapping[str, Any], results: list[tuple[str, float, str, str]], task: str) -> list[Any]:
    """The results of the model alone in the Hub's form."""
    from huggingface_hub import EvalResult

    dataset = cfg.get("dataset", "unknown")
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=catalog.datasets().get(dataset, {}).get("title", dataset),
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
            metric_config=protocol or None,
        )
        for metric, value, protocol, partner in results
        if not partner
    ]


def _usage(config: Mapping[str, Any], cfg: Mapping[str, Any], repo_id: str) -> Iterator[str]:
    yield f"# {repo_id.split('/')[-1]}\n"
    yield f"{cfg.get('description') or 'A video model'} ({config['architecture']}), for videozoo.\n"
    yield "```python"
    yield "import videozoo\n"
    yield f'model = videozoo.create_model("hf-hub:{repo_id}", pretrained=True).eval()'
    yield from _call(config, cfg)
    yield "```\n"


def _call(config: Mapping[str, Any], cfg: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the example that use the model."""
    task, modality = cfg.get("task", "recognition"), cfg.get("modality", "rgb")
    if task == "detection":
        yield "# normalised clips (N, 3, T, H, W) and, for each, persons (K, 4) as x1, y1, x2, y2 in pixels"
        yield f"logits = model(clips, boxes)  # (number of persons, {config['num_classes']})"
    elif modality == "feature":
        yield f"outputs = model(features)  # (N, {cfg.get('in_chans')}, T) -> named tensors, see videozoo.localization"
    elif task == "localization":
        yield "outputs = model(frames, ticks, scales)  # of one video; see videozoo.localization"
    else:
        source = "flow/clip" if modality == "flow" else "clip.mp4"
        yield f'print(videozoo.predict(model, "{source}", topk=5))' + "  # a folder of flow" * (modality == "flow")


def _facts(config: Mapping[str, Any], cfg: Mapping[str, Any], parameters: int, protocol: str) -> Iterator[str]:
    dataset = cfg.get("dataset", "")
    facts = {
        "architecture": config["architecture"],
        "parameters": f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters}",
        "classes": _classes(config),
        "training data": catalog.datasets().get(dataset, {}).get("title", dataset),
        "pretraining": cfg.get("pretrain"),
        "test protocol": protocol,
        "licence": cfg.get("license"),
        "paper": cfg.get("paper"),
        "weights from": cfg.get("origin_url"),
        "notes": cfg.get("notes"),
    }
    yield "| | |\n|---|---|"
    yield from (f"| {title} | {value} |" for title, value in facts.items() if value)


def _tables(cfg: Mapping[str, Any], results: list[tuple[str, float, str, str]]) -> Iterator[str]:
    if not results:
        return
    yield "\n## Published results\n" if cfg.get("name") else "\n## Results\n"
    origins = dict.fromkeys(row["origin"] for row in cfg["metrics"] if row.get("origin") and not cfg.get("name"))
    if origins:
        yield f"As {', '.join(origins)}.\n"
    yield "| metric | value | protocol |\n|---|---|---|"
    for metric, value, protocol, partner in results:
        how = ", ".join(filter(None, (protocol, f"together with {partner}" if partner else "")))
        yield f"| {metric} | {value:g} | {how} |"
