"""The README.md of a Hub repository, from the model's `config.json`."""

from collections.abc import Iterator, Mapping
from typing import Any

_HUB_LICENSES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0".split()
)
MAX_CLASSES = 50  # that are named


def model_card(config: Mapping[str, Any], repo_id: str, parameters: int) -> str:
    """Text of the card: front matter that the Hub indexes (licence, tags, results), facts and how to use the model.

    `config` is the content of `config.json` as `save_pretrained` writes it.
    """
    from huggingface_hub import ModelCardData

    cfg = config.get("pretrained_cfg", {})
    dataset = cfg.get("dataset")
    data = ModelCardData(
        library_name="videozoo",
        pipeline_tag="video-classification",
        tags=[tag for tag in ("videozoo", cfg.get("family"), dataset) if tag],
        datasets=[dataset] if dataset else None,
        model_name=repo_id.split("/")[-1],
        eval_results=_eval_results(cfg) or None,
        **_license(cfg.get("license", "")),
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_body(config, cfg, repo_id, parameters)) + "\n"


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
    return (
        {"license": known} if known in _HUB_LICENSES else {"license": "other", "license_name": known.replace(" ", "-")}
    )


def _results(cfg: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(metric, value, protocol) of each published number."""
    for row in cfg.get("metrics", ()):
        for metric, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield metric, value, str(row.get("protocol", ""))


def _eval_results(cfg: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    dataset = cfg.get("dataset", "unknown")
    return [
        EvalResult(
            task_type="video-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
            metric_config=protocol or None,
        )
        for metric, value, protocol in _results(cfg)
    ]


def _body(config: Mapping[str, Any], cfg: Mapping[str, Any], repo_id: str, parameters: int) -> Iterator[str]:
    yield f"# {repo_id.split('/')[-1]}\n"
    yield f"{cfg.get('description') or 'A video model'} ({config['architecture']}), for videozoo.\n"
    yield "```python"
    yield "import videozoo\n"
    yield f'model = videozoo.create_model("hf-hub:{repo_id}", pretrained=True).eval()'
    yield 'print(videozoo.predict(model, "clip.mp4", topk=5))'
    yield "```\n"
    yield "| | |\n|---|---|"
    yield f"| architecture | {config['architecture']} |"
    yield f"| parameters | {parameters / 1e6:.1f} M |"
    yield f"| classes | {_classes(config)} |"
    for title, key in (("training data", "dataset"), ("pretraining", "pretrain"), ("licence", "license")):
        if cfg.get(key):
            yield f"| {title} | {cfg[key]} |"
    for title, key in (("paper", "paper"), ("weights from", "origin_url"), ("notes", "notes")):
        if cfg.get(key):
            yield f"| {title} | {cfg[key]} |"
    results = list(_results(cfg))
    if results:
        yield "\n## Published results\n" if cfg.get("name") else "\n## Results\n"
        origins = dict.fromkeys(row["origin"] for row in cfg["metrics"] if row.get("origin") and not cfg.get("name"))
        if origins:
            yield f"As {', '.join(origins)}.\n"
        yield "| metric | value | protocol |\n|---|---|---|"
        yield from (f"| {metric} | {value:g} | {protocol} |" for metric, value, protocol in results)
