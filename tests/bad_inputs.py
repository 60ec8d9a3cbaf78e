"""A workspace of good and bad files, and the command lines that are refused: arguments, exit status, part of the message."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import fastprune
from fastprune import testing
from fastprune.registry import catalogue

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran", "on", "mat", "home", "fast"]

UNREACHABLE = 3
"""Exit status of a budget that cannot be met."""


class Case(NamedTuple):
    """A refused command line: the words after ``fastprune``, the exit status, and what the message says."""

    words: str
    says: str
    code: int = 2
    about: str = ""
    """What is wrong with the file or model, if the command line does not show it."""


def workspace(folder: Path) -> None:
    """Fill a folder with tiny models, data, recipes, tables and sweeps, good and bad."""
    _models(folder)
    _data(folder)
    _text_files(folder)
    _json_files(folder)
    for name in ("empty", "full"):
        (folder / name).mkdir()
    (folder / "full" / "file").touch()


def _models(folder: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.5, **sizes)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), WORDS, strict=False))
    processor = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    dense = BertForSequenceClassification(config)
    for name, model in (("dense", dense), ("encoder", BertModel(config))):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes))
    decoder.save_pretrained(folder / "decoder")
    processor.save_pretrained(folder / "decoder")
    small = fastprune.prune(dense, testing.tiny_batches(dense), budget=0.5, cost="params", tuner="none", bench=False)
    small.save(folder / "small", tokenizer=processor)

    def changed(name: str, change: Callable[[Path], object], source: str = "dense") -> None:
        shutil.copytree(folder / source, folder / name)
        change(folder / name)

    changed("no-weights", lambda path: (path / "model.safetensors").unlink())
    changed("no-tokenizer", lambda path: [file.unlink() for file in path.glob("tokenizer*")])
    changed("broken-weights", lambda path: (path / "model.safetensors").write_bytes(b"no weights"))
    changed("broken-config", lambda path: (path / "config.json").write_text("{"))
    changed("list-config", lambda path: (path / "config.json").write_text("[1, 2]"))
    changed("deep-config", lambda path: (path / "config.json").write_text("[" * 100_000))
    changed("unknown-type", lambda path: _edit(path / "config.json", model_type="nothing"))
    changed("unknown-class", lambda path: _edit(path / "config.json", architectures=["BertForNothing"]))
    changed("function-class", lambda path: _edit(path / "config.json", architectures=["pipeline"]))
    changed("other-sizes", lambda path: _edit(path / "config.json", intermediate_size=25))
    changed("broken-tokenizer", lambda path: (path / "tokenizer.json").write_text("{}"))
    changed("nan-weights", _nan)
    changed("outside-index", _outside)
    changed("outside-pruned", _outside, "small")
    changed("pickled", _pickled, "small")
    changed("no-manifest-keys", lambda path: (path / "fastprune.json").write_text('{"format_version": 1}'), "small")
    changed("broken-manifest", lambda path: (path / "fastprune.json").write_text("{"), "small")
    changed("deep-manifest", lambda path: (path / "fastprune.json").write_text('{"a":' * 100_000), "small")
    changed("list-manifest", lambda path: (path / "fastprune.json").write_text("[]"), "small")
    changed("newer-manifest", lambda path: _edit(path / "fastprune.json", format_version=99), "small")
    changed("wrong-widths", lambda path: _edit(path / "fastprune.json", widths={"nothing": 3}), "small")
    changed("false-figures", lambda path: _edit(path / "fastprune.json", cost="free", groups=7), "small")
    changed("no-plan", lambda path: _edit(path / "config.json", fastprune={"architecture": 3}), "small")


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _nan(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _outside(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").rename(path / "model-1.safetensors")
    shutil.copy(path / "model-1.safetensors", path.parent / "elsewhere.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, "../elsewhere.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickled(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def _data(folder: Path) -> None:
    rows = [f"the {animal} {did} {where},{place % 2}" for place, (animal, did, where) in enumerate(_sentences())]
    files = {
        "train.csv": "\n".join(["text,label", *rows]),
        "lines.txt": "\n".join(row.partition(",")[0] for row in rows),
        "no-rows.csv": "text,label\n",
        "no-bytes.csv": "",
        "no-text.csv": "a,b\n1,2\n3,4\n",
        "numbers.csv": "text,label\n1,0\n2,1\n",
        "three-classes.csv": "text,label\nthe cat,0\nthe dog,1\na dog,2\n",
        "wrong-label.csv": "text,label\nthe cat,0\nthe dog,maybe\n",
        "no-label.csv": "text,label\nthe cat,0\nthe dog,\n",
        "unlabelled.csv": "text\nthe cat\nthe dog\n",
        "ragged.csv": "text,label\nthe cat,0\nthe dog,1,2,3\n",
        "broken.json": '[{"text": "the cat", "label": 0}, {"text": ',
        "broken.jsonl": '{"text": "the cat", "label": 0}\n{"text": \n',
        "lists.jsonl": '{"text": [1, 2], "label": 0}\n{"text": [3], "label": 1}\n',
        "nulls.jsonl": '{"text": "the cat", "label": 0}\n{"text": null, "label": 1}\n',
        "number.json": "7",
        "lines.empty.txt": "\n\n\n",
        "sheet.docx": "no table",
        "chat.jsonl": '{"messages": [{"role": "user", "content": "the cat"}]}',
    }
    for name, content in files.items():
        (folder / name).write_text(content + "\n" * bool(content), encoding="utf-8")
    for name in ("binary.csv", "binary.txt", "binary.json", "binary.jsonl", "binary.parquet", "binary.tsv"):
        (folder / name).write_bytes(bytes(range(256)) * 8)


def _sentences() -> list[tuple[str, str, str]]:
    return [(a, b, c) for a in ("cat", "dog") for b in ("sat", "ran") for c in ("home", "on the mat")]


def _text_files(folder: Path) -> None:
    families = catalogue.architecture("bert")
    files = {
        "broken.toml": "[scorer\n",
        "stage.toml": '[nothing]\nuse = "mask"\n',
        "no-use.toml": "[tuner]\ndamp = 1.0\n",
        "number-use.toml": "[tuner]\nuse = 3\n",
        "strategy.toml": '[tuner]\nuse = "nothing"\n',
        "option.toml": '[tuner]\nuse = "mask"\nnothing = 1.0\n',
        "type.toml": '[tuner]\nuse = "mask"\ndamp = "much"\n',
        "preset.toml": 'preset = "nothing"\n',
        "list-preset.toml": "preset = [1]\n",
        "deep.toml": "a = " + "[" * 20_000,
        "family.toml": families.replace("intermediate", "nothing"),
        "family-field.toml": families.replace("name = ", "title = ", 1),
        "family-type.toml": 'name = "x"\nmodel_types = 3\nstacks = []\n',
        "family-empty.toml": 'name = "x"\nmodel_types = ["bert"]\nstacks = []\n',
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "binary.toml").write_bytes(bytes(range(256)))


def _json_files(folder: Path) -> None:
    curve = {"kind": "ffn", "units": 2, "width": 1, "hidden": 4, "groups": ["x"], "kept": [0, 2], "cost": [0, 1]}
    curve |= {"spread": [0, 0], "step": 1}
    table = {"format": "fastprune cost table", "format_version": 1, "measure": "ms", "fixed": 1.0, "curves": [curve]}
    table |= {"conditions": {}, "model": {"model_type": "bert"}, "check": {}}
    run = {"recipe": "default", "budget": 0.5, "seed": 0, "cost": 0.5, "metrics": {"accuracy": 0.5}, "seconds": 1.0}
    sweep = {"format": 2, "about": {}, "metric": "accuracy", "falling": False, "dense": {"accuracy": 0.5}}
    sweep |= {"measure": "MACs", "runs": [run]}
    tables = {
        "table.json": table,
        "table-newer.json": table | {"format_version": 9},
        "table-negative.json": table | {"fixed": -1.0},
        "table-text.json": table | {"fixed": "much"},
        "table-curves.json": table | {"curves": {"a": 1}},
        "table-gap.json": table | {"curves": [curve | {"kept": [1, 2]}]},
        "table-list.json": [1, 2, 3],
    }
    for name, content in tables.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "table-deep.json").write_text('{"a":' * 100_000)
    broken_run = copy.deepcopy(run) | {"metrics": 3}
    sweeps = {
        "sweep-newer": sweep | {"format": 9},
        "sweep-list": [1],
        "sweep-other": sweep,
        "sweep-metric": sweep | {"metric": "nothing"},
        "sweep-run": sweep | {"runs": [broken_run]},
        "sweep-keys": {"format": 2},
    }
    for name, content in sweeps.items():
        (folder / name).mkdir()
        (folder / name / "sweep.json").write_text(json.dumps(content))
    (folder / "sweep-deep").mkdir()
    (folder / "sweep-deep" / "sweep.json").write_text("[" * 100_000)


PRUNE = "prune dense --data train.csv --output new --no-bench"
HALF = f"{PRUNE} --budget 0.5"
SWEEP = "sweep dense --data train.csv --eval-data train.csv --output new"

CASES = (
    # commands
    Case("prun", "No such command 'prun'. Did you mean 'prune'?"),
    Case("frobnicate", "No such command 'frobnicate'"),
    Case("prune", "Missing argument 'MODEL'"),
    Case("prune dense", "Missing option '--data'"),
    Case("prune dense --data train.csv --budget 0.5", "Missing option '--output'"),
    Case(f"{HALF} extra", "unexpected extra argument (extra)"),
    Case(f"{HALF} --nothing", "No such option '--nothing'"),
    Case(f"{HALF} --budgte 0.4", "No such option '--budgte'"),
    # outputs
    Case("prune dense --data train.csv --budget 0.5 --output full", "directory full exists and is not empty"),
    Case("prune dense --data train.csv --budget 0.5 --output train.csv", "The output train.csv is a file"),
    Case("prune dense --data train.csv --budget 0.5 --output train.csv/new", "is not a writable directory"),
    Case("prune dense --data train.csv --budget 0.5 --output ~nosuchuser/new", "no such home directory"),
    Case("prune dense --data train.csv --budget 0.5 --output ''", "The output is empty"),
    Case(f"prune dense --data train.csv --budget 0.5 --output {'x' * 260}", "File name too long"),
    Case("export dense --output full", "directory full exists and is not empty"),
    Case("export dense --output train.csv", "The output train.csv is a file"),
    Case("demo --output full", "directory full exists and is not empty"),
    Case("measure dense --output train.csv", "train.csv exists and is not an earlier output"),
    Case("measure dense --output full", "The file full cannot be written"),
    Case("measure --show table.json --output curve.xyz", "its name must end with .png, .svg, .pdf"),
    Case("measure --show table.json --output train.csv", "train.csv exists and is not an earlier output"),
    Case("report small --output train.csv", "train.csv exists and is not an earlier output"),
    Case("report small --output full", "The file full cannot be written"),
    Case("sweep dense --data train.csv --eval-data train.csv --output full", "full is not empty and holds no sweep"),
    Case("sweep dense --data train.csv --eval-data train.csv --output train.csv", "train.csv is a file"),
    # budgets
    Case(PRUNE, "Give a budget"),
    *(
        Case(f"{PRUNE} --vocabulary {text}", "a share with a point such as 0.3")
        for text in ("many", "0", "1.5", "30%", "''")
    ),
    Case(f"{PRUNE} --vocabulary-coverage 99", "above 0, at most 1; got 99.0"),
    Case(f"{PRUNE} --vocabulary 0.5 --vocabulary-coverage 0.9", "either the size"),
    Case(f"{PRUNE} --vocabulary 0.5 --vocabulary-data nosuch.txt", "There is no such file or directory: nosuch.txt"),
    Case(f"{HALF} --vocabulary-data train.csv", "give one of them"),
    Case(f"{PRUNE} --vocabulary 3", "keeps at least", UNREACHABLE),
    *(
        Case(f"{PRUNE} --budget {text}", says)
        for text, says in (
            ("0", "above 0 and at most 1"),
            ("-0.5", "above 0 and at most 1"),
            ("1.5", "above 0 and at most 1"),
            ("50", "50 % is 0.5"),
            ("nan", "above 0 and at most 1"),
            ("inf", "inf"),
            ("half", "half"),
            ("50%", "50%"),
            ("''", "budget"),
            ("0.5,0.6", "0.5,0.6"),
            ("macs=", "The budget '' is no number"),
            ("nothing=0.5", "nothing"),
            ("macs=0.5,macs=0.6", "macs"),
            ("latency=3", "got 3; 3 % is 0.03"),
            ("latency=-3ms", "latency"),
            ("latency=3parsecs", "parsecs"),
            ("macs=3ms", "ms"),
        )
    ),
    Case(f"{PRUNE} --budget 0.000001", "cannot be met", UNREACHABLE),
    Case(f"{PRUNE} --budget params=0.01", "cannot be met", UNREACHABLE),
    Case(f"{PRUNE} --speedup 0.5", "--speedup must be 1 or more; got 0.5"),
    Case(f"{PRUNE} --speedup nan", "--speedup must be 1 or more; got nan"),
    Case(f"{PRUNE} --speedup fast", "'fast' is not a valid float"),
    Case(f"{PRUNE} --speedup 2 --budget 0.5", "cannot be combined with --speedup"),
    # recipes and strategies
    Case(f"{HALF} --recipe bets", "There is no preset 'bets'; did you mean 'best'"),
    Case(f"{HALF} --recipe nosuch.toml", "There is no such file: nosuch.toml"),
    Case(f"{HALF} --recipe broken.toml", "broken.toml is not TOML", about="`[scorer` without a bracket"),
    Case(f"{HALF} --recipe binary.toml", "binary.toml cannot be read", about="binary bytes"),
    Case(f"{HALF} --recipe deep.toml", "deep.toml is not TOML", about="20,000 nested lists"),
    Case(f"{HALF} --recipe stage.toml", "no stage 'nothing'", about="`[nothing]`"),
    Case(f"{HALF} --recipe no-use.toml", "must name its strategy", about="`[tuner]` without `use`"),
    Case(f"{HALF} --recipe number-use.toml", "must name its strategy", about="`use = 3`"),
    Case(f"{HALF} --recipe strategy.toml", "no tuner 'nothing'", about='`use = "nothing"`'),
    Case(f"{HALF} --recipe option.toml", "no option 'nothing'", about="an unknown option"),
    Case(f"{HALF} --recipe type.toml", "takes float", about='`damp = "much"`'),
    Case(f"{HALF} --recipe preset.toml", "no preset 'nothing'", about='`preset = "nothing"`'),
    Case(f"{HALF} --recipe list-preset.toml", "preset", about="`preset = [1]`"),
    Case(f"{HALF} --recipe full", "full"),
    *(
        Case(f"{HALF} --{kind} nothing", f"There is no {kind} 'nothing'")
        for kind in ("scorer", "searcher", "rearranger", "tuner", "schedule")
    ),
    Case(f"{HALF} --cost nothing", "There is no cost model 'nothing'"),
    Case(f"{HALF} --scorer fihser", "did you mean 'fisher'"),
    Case(f"{HALF} --scorer magnitude --rearranger fisher", "needs per-sample gradients"),
    Case(f"{HALF} --set damping=1", "STAGE.OPTION=VALUE"),
    Case(f"{HALF} --set tuner.damping", "STAGE.OPTION=VALUE"),
    Case(f"{HALF} --set nothing.damping=1", "There is no stage 'nothing'"),
    Case(f"{HALF} --set tuner.dampign=1", "no option 'dampign'"),
    Case(f"{HALF} --set tuner.damping=lots", "takes float"),
    Case(f"{HALF} --set scorer.labels=none", "labels"),
    Case(f"{HALF} --set tuner.damping=-1", "'damping'"),
    Case(f"{HALF} --set tuner.damping=nan", "'damping'"),
    Case(f"{HALF} --set tuner.rate=inf", "'rate'"),
    Case(f"{HALF} --set tuner.epochs=-1", "'epochs'"),
    Case(f"{HALF} --set tuner.fill=1e30", "'fill'"),
    Case(f"{HALF} --tuner mask --set tuner.limit=0", "'limit'"),
    Case(f"{HALF} --set scorer.max_tokens=0", "'max_tokens'"),
    Case(f"{HALF} --set cost.seq_len=-3", "'seq_len'"),
    Case(f"{HALF} --set cost.seq_len=0", "'seq_len'"),
    Case(f"{HALF} --multiple 0", "'--multiple'"),
    Case(f"{HALF} --servable --searcher uniform", "The searcher 'uniform' has no option form"),
    Case(f"{HALF} --servable --recipe kprune", "The searcher 'threshold' has no option form"),
    Case(f"{HALF} --servable --schedule bottom-up", "The schedule 'bottom-up' prunes one sublayer after another"),
    Case("prune small --data train.csv --output new --no-bench --budget 0.9 --servable", "was pruned in the free form"),
    Case(f"{HALF} --searcher knapsack --set searcher.resolution=1", "'resolution'"),
    Case(f"{HALF} --searcher knapsack --set searcher.resolution=1e15", "'resolution'"),
    Case(f"{HALF} --schedule rounds --set schedule.steps=1000000", "'steps'"),
    Case(f"{HALF} --seed x", "'x' is not a valid integer"),
    Case(f"{HALF} --seed {2**70}", "seed"),
    Case(f"{HALF} --samples 0", "0 is not in the range"),
    Case(f"{HALF} --batch-size 0", "0 is not in the range"),
    Case(f"{HALF} --max-length 0", "0 is not in the range"),
    Case(f"{HALF} --max-length -5", "-5 is not in the range"),
    # architectures
    Case(f"{HALF} --architecture brt", "There is no architecture 'brt'; did you mean"),
    Case(f"{HALF} --architecture nosuch.toml", "There is no such file: nosuch.toml"),
    Case(f"{HALF} --architecture broken.toml", "broken.toml is not TOML"),
    Case(f"{HALF} --architecture binary.toml", "binary.toml cannot be read", about="binary bytes"),
    Case(f"{HALF} --architecture deep.toml", "deep.toml is not TOML", about="20,000 nested lists"),
    Case(f"{HALF} --architecture family.toml", "nothing", about="a path that BERT does not have"),
    Case(f"{HALF} --architecture family-field.toml", "a field 'title'", about="an unknown field"),
    Case(f"{HALF} --architecture family-type.toml", "model_types", about="`model_types = 3`"),
    Case(f"{HALF} --architecture family-empty.toml", "found no layer", about="no stacks"),
    Case(f"{HALF} --architecture llama", "llama"),
    # models
    *(
        Case(f"evaluate {name} --data train.csv", says, about=about)
        for name, says, about in (
            ("./nothing", "There is no model directory ./nothing", ""),
            ("nothing", "'nothing' is not a local directory and cannot be loaded from the Hub", ""),
            ("a/b/c", "There is no model directory a/b/c", ""),
            ("train.csv", "train.csv is a file, not a model directory", ""),
            ("empty", "empty is not a model directory: it has no config.json", ""),
            ("no-weights", "no-weights has a config.json but no weights", ""),
            ("no-tokenizer", "no-tokenizer has no tokenizer", ""),
            ("broken-weights", "broken-weights cannot be loaded", "no safetensors in model.safetensors"),
            ("broken-config", "broken-config", "`{` in config.json"),
            ("list-config", "list-config", "a list in config.json"),
            ("deep-config", "deep-config", "100,000 nested lists in config.json"),
            ("unknown-type", "model type `nothing`", "`model_type` is nothing"),
            ("unknown-class", "BertForNothing", "its class is BertForNothing"),
            ("function-class", "pipeline", "its class is a function of transformers"),
            ("other-sizes", "other-sizes", "config.json has another size than the weights"),
            ("broken-tokenizer", "broken-tokenizer cannot be read", "`{}` in tokenizer.json"),
            ("outside-index", "which is outside of outside-index", "its index names ../elsewhere.safetensors"),
            ("outside-pruned", "which is outside of outside-pruned", "the same, for a pruned model"),
            ("pickled", "pickled", "a pruned model with pytorch_model.bin"),
            ("broken-manifest", "broken-manifest", "`{` in fastprune.json"),
            ("deep-manifest", "deep-manifest", "100,000 nested objects in fastprune.json"),
            ("list-manifest", "list-manifest", "a list in fastprune.json"),
            ("newer-manifest", "has format 99", "fastprune.json of a newer fastprune"),
            ("no-manifest-keys", "no-manifest-keys", "fastprune.json without its entries"),
            ("wrong-widths", "wrong-widths", "fastprune.json disagrees with the weights"),
            ("no-plan", "no-plan is incomplete or invalid", "the entry of pruned modules is broken"),
        )
    ),
    Case(
        "prune nan-weights --data train.csv --budget 0.5 --output new",
        "NaN or infinite values",
        about="a weight is NaN",
    ),
    Case("evaluate dense --data train.csv --device nothing", "There is no device 'nothing'"),
    Case("evaluate dense --data train.csv --device cuda:77", "There is no device 'cuda:77'"),
    Case("evaluate dense --data train.csv --device meta", "meta"),
    Case("evaluate dense --data train.csv --dtype float8", "'float8' is not one of"),
    Case("evaluate dense --data train.csv --pooling cls", "--pooling is for embedding models"),
    Case("evaluate encoder --data train.csv --pooling best", "'best' is not one of"),
    # data
    *(
        Case(f"prune dense --data {name} --budget 0.5 --output new", says, about=about)
        for name, says, about in (
            ("nothing.csv", "There is no such file or directory: nothing.csv", ""),
            ("nothing", "'nothing' is not a local file or directory", ""),
            ("./nothing", "There is no such file or directory: ./nothing", ""),
            ("sheet.docx", "sheet.docx is not supported", ""),
            ("empty", "empty", "a directory without files"),
            ("no-rows.csv", "no-rows.csv", "a heading without rows"),
            ("no-bytes.csv", "no-bytes.csv", "0 bytes"),
            ("lines.empty.txt", "lines.empty.txt has no rows", "empty lines"),
            ("no-text.csv", "in the data, which has a, b", "columns a and b"),
            ("binary.csv", "binary.csv cannot be read", ""),
            ("binary.tsv", "binary.tsv cannot be read", ""),
            ("binary.txt", "binary.txt cannot be read", ""),
            ("binary.json", "binary.json cannot be read", ""),
            ("binary.jsonl", "binary.jsonl cannot be read", ""),
            ("binary.parquet", "binary.parquet cannot be read", ""),
            ("broken.json", "broken.json", "cut off"),
            ("broken.jsonl", "broken.jsonl", "cut off"),
            ("number.json", "number.json", "7"),
        )
    ),
    *(
        Case(f"prune decoder --data {words} --budget 0.5 --output new", says, about=about)
        for words, says, about in (
            ("lines.txt --max-length 65", "max_length must be at most the 64 tokens that the model takes; got 65", ""),
            ("lines.empty.txt", "found nothing to encode in the 4 rows of lines.empty.txt", "empty lines"),
            ("chat.jsonl", "the tokenizer has no chat template", "chats, for a base model"),
            ("lines.txt:0", "The share of a source must be a number above 0; got 0.0 for lines.txt", ""),
            ("lines.txt:half", "as in lines.txt:0.5; got 'half'", ""),
            ("lines.txt:0.5 --data train.csv", "The source train.csv has no share, and others have one", ""),
            ("lines.txt --data lines.txt", "The source lines.txt is given twice", ""),
            ("lines.txt:0.5 --data nothing.txt:0.5", "There is no such file or directory: nothing.txt", ""),
            (
                "lines.txt --data train.csv --samples 1",
                "samples must be at least 2, one for each source of data; got 1",
                "",
            ),
        )
    ),
    Case(
        "prune dense --data train.csv --data unlabelled.csv --budget 0.5 --output new",
        "all sources need the same columns",
        about="one of them has no labels",
    ),
    *(
        Case(f"evaluate {words}", says)
        for words, says in (
            ("decoder", "Name data (--data), or tasks of lm-eval (--lm-eval)"),
            ("decoder --data lines.txt --max-length 65", "at most the 64 tokens that the model takes; got 65"),
            ("decoder --data lines.txt --max-length 8 --stride 9", "must be at most the context of 8 tokens"),
            ("decoder --data lines.empty.txt", "they are empty or too short"),
            ("decoder --data chat.jsonl", "the tokenizer has no chat template"),
            ("dense --data train.csv --stride 8", "A stride is for the windows of language models"),
            ("decoder --data lines.txt --lm-eval-chat", "--lm-eval-chat belongs to --lm-eval"),
        )
    ),
    Case(
        "experts decoder --data lines.txt --keep 0.5 --output new",
        "No mixture of experts is known for the model type 'llama'",
    ),
    Case("experts decoder --data lines.txt --keep 1.5 --output new", "--keep takes a share above 0 and at most 1"),
    Case("experts decoder --data lines.txt --output new", "Missing option '--keep'"),
    Case("bench dense dense --new-tokens 4", "This BertForSequenceClassification generates no texts"),
    Case("bench decoder decoder --seq-len 60 --new-tokens 4", "The model takes at most 64 tokens"),
    *(
        Case(f"evaluate dense --data {name}", says, about=about)
        for name, says, about in (
            ("unlabelled.csv", "Metrics need labels", "no label column"),
            ("three-classes.csv", "2", "a label of 2 for a model of two classes"),
            ("wrong-label.csv", "maybe", "the label maybe"),
            ("no-label.csv", "Row 2 of the data: there is no label", "an empty label"),
            ("lists.jsonl", "'text' must be a text; got [1, 2]", "lists instead of texts"),
            ("nulls.jsonl", "Row 2 of the data: there is no text", "a text is null"),
        )
    ),
    Case("evaluate dense --data train.csv --text-columns nothing", "nothing"),
    Case("evaluate dense --data train.csv --text-columns text,label,more", "text"),
    Case("evaluate dense --data train.csv --label-column nothing", "nothing"),
    Case("evaluate dense --data train.csv --split test", "has no split 'test'"),
    Case("evaluate dense --data train.csv --batch-size x", "'x' is not a valid integer"),
    Case(f"{HALF} --eval-data nothing.csv", "There is no such file or directory: nothing.csv"),
    Case(f"{HALF} --eval-data train.csv --eval-split test", "has no split 'test'"),
    Case(f"{HALF} --eval-data wrong-label.csv", "maybe"),
    # export
    Case("export ./nothing --output new", "There is no model directory ./nothing"),
    Case("export dense --output new --format nothing", "There is no format 'nothing'"),
    Case("export dense --output new --set opset", "--set takes NAME=VALUE"),
    Case("export dense --output new --set nothing=1", "no option 'nothing'"),
    Case("export dense --output new --set opset=0", "opset"),
    Case("export dense --output new --set opset=latest", "takes int"),
    # bench and measure
    Case("bench dense", "Missing argument 'PRUNED'"),
    Case("bench dense ./nothing", "There is no model directory ./nothing"),
    Case("bench dense small --rounds 0", "0 is not in the range"),
    Case("bench dense small --seq-len 65", "65"),
    Case("bench dense small --attention nothing", "nothing"),
    Case("bench dense small --threads 0", "0 is not in the range"),
    Case("bench dense small --latency-table nothing.json", "There is no such file: nothing.json"),
    Case(
        "bench dense small --latency-table table-list.json --seq-len 4 --rounds 1", "table-list.json is no cost table"
    ),
    Case("measure", "Name a MODEL to measure, or a table to --show"),
    Case("measure dense --show table.json", "Name a MODEL to measure, or a table to --show"),
    Case("measure --show nothing.json", "There is no such file: nothing.json"),
    *(
        Case(f"measure --show {name}", says, about=about)
        for name, says, about in (
            ("train.csv", "train.csv is broken", "not a table"),
            ("binary.json", "binary.json", "binary bytes"),
            ("table-list.json", "table-list.json is no cost table", "a list"),
            ("table-newer.json", "has format 9", "of a newer fastprune"),
            ("table-negative.json", "table-negative.json is broken", "a negative cost"),
            ("table-text.json", "table-text.json is broken", "a word for a cost"),
            ("table-curves.json", "table-curves.json is broken", "a wrong type of entry"),
            ("table-gap.json", "table-gap.json is broken", "a curve that begins at 1"),
            ("table-deep.json", "table-deep.json is broken", "100,000 nested objects"),
        )
    ),
    Case("measure dense --seq-len 65", "takes at most 64 tokens; 65 were requested"),
    Case("measure dense --cost macs", "macs"),
    Case("measure dense --cost nothing", "There is no cost model 'nothing'"),
    Case("measure dense --attention nothing", "nothing"),
    Case(f"{HALF} --cost latency --set cost.table_file=nothing.json", "nothing.json"),
    Case(f"{HALF} --cost latency --set cost.table_file=table.json", "measured on another model"),
    # sweeps
    Case(f"{SWEEP} --budgets 9:1", "9:1"),
    Case(f"{SWEEP} --budgets 0.9:0.2:0", "0.9:0.2:0"),
    Case(f"{SWEEP} --budgets half", "half"),
    Case(f"{SWEEP} --seeds a", "Seeds must be integers separated by commas, such as 0,1,2; got a"),
    Case(f"{SWEEP} --pick best", "sweep has no --pick any more; fastprune shrink MODEL"),
    Case(f"{SWEEP} --recipes default,bets", "There is no preset 'bets'"),
    Case(f"{SWEEP} --recipes nosuch.toml", "There is no such file: nosuch.toml"),
    Case(f"{SWEEP} --metric nothing", "There is no metric 'nothing'"),
    *(
        Case(f"{SWEEP[: -len('new')]}{name}", name, about=about)
        for name, about in (
            ("sweep-newer", "of a newer fastprune"),
            ("sweep-list", "a list"),
            ("sweep-keys", "entries are missing"),
            ("sweep-run", "a number for the metrics of a run"),
            ("sweep-metric", "a metric that no run has"),
            ("sweep-deep", "100,000 nested lists"),
            ("sweep-other", "of another model"),
        )
    ),
    # the rest
    Case("inspect ./nothing", "There is no model directory ./nothing"),
    Case("inspect dense --seq-len 0", "0 is not in the range"),
    Case("inspect dense --seq-len 65", "65"),
    Case("inspect dense --architecture nothing", "There is no architecture 'nothing'"),
    Case("inspect unknown-type --draft", "model type `nothing`"),
    Case("check-architecture ./nothing", "There is no model directory ./nothing"),
    Case("check-architecture dense --layers 1", "1 is not in the range"),
    Case("check-architecture dense --architecture family.toml", "nothing", about="a path that BERT does not have"),
    Case("report", "Missing argument 'DIRECTORIES...'"),
    Case("report dense", "dense has no pruned model saved by fastprune"),
    Case("report empty", "empty has no pruned model"),
    Case("report no-manifest-keys", "no-manifest-keys", about="fastprune.json without its entries"),
    Case("report false-figures", "false-figures", about="words for figures in fastprune.json"),
    Case("report deep-manifest", "deep-manifest", about="100,000 nested objects"),
    Case("report list-manifest", "list-manifest", about="a list"),
    Case("push dense owner/name", "dense has no pruned model"),
    Case("push small", "Missing argument 'REPOSITORY'"),
    Case("push small 'not a name'", "not a name"),
    Case("strategies nothing", "nothing"),
    Case("strategies scorer nothing", "nothing"),
    Case("strategies preset nothing", "There is no preset 'nothing'"),
    Case("completion nothing", "'nothing' is not one of"),
    Case("demo --budget 2 --output new", "above 0 and at most 1"),
    Case("demo --samples 3 --output new", "3 is not in the range"),
)
