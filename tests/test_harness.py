"""lm-evaluation-harness: local tasks, offline, and what is refused. The figures need the package lm-eval."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import testing
from fastprune.errors import ModelError, OptionError, UnknownNameError, UsageError
from fastprune.measuring import harness

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed")
PPL = """task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
metric_list: [{{metric: byte_perplexity}}, {{metric: word_perplexity}}]
metadata: {{version: 1.0}}
"""
CHOICE = """task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
metadata: {{version: 1.0}}
"""


@pytest.fixture
def asked(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A decoder, and a directory with two tasks."""
    model = testing.tiny_model("llama", "ForCausalLM")
    model.save_pretrained(tmp_path / "decoder")
    tiny_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")  # as of decoders
    tiny_tokenizer.bos_token = "[CLS]"
    tiny_tokenizer.eos_token = "[SEP]"
    tiny_tokenizer.save_pretrained(tmp_path / "decoder")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "text.jsonl").write_text('{"page": "the cat sat on the mat in paris"}\n{"page": "the dog ran home"}\n')
    rows = [{"question": "the cat", "choices": [" sat", " ran", " home"], "answer": place % 3} for place in range(6)]
    (tasks / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in (("text", PPL), ("choice", CHOICE)):
        (tasks / f"{name}.yaml").write_text(content.format(folder=tasks))
    return tmp_path


@needs_it
@pytest.mark.filterwarnings("ignore")
def test_local_tasks(asked: Path, run) -> None:
    both = ["local_text", "local_choice"]
    found = fastprune.lm_eval(asked / "decoder", both, folder=asked / "tasks")
    assert set(found) == set(both)
    assert found["local_choice"]["acc"] == pytest.approx(1 / 3), "each choice is right in a third of the rows"
    opened, texts = (
        fastprune.open_pretrained(asked / "decoder"),
        ["the cat sat on the mat in paris", "the dog ran home"],
    )
    model, tokenizer = opened.model, opened.tokenizer
    total = 0.0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            chances = model(ids).logits[0, :-1].double().log_softmax(-1)
        total -= float(chances.gather(1, ids[0, 1:, None]).sum())
    expected = math.exp(total / sum(map(len, texts)))
    assert found["local_text"]["byte_perplexity"] == pytest.approx(expected, rel=1e-4)
    words = ("--lm-eval", ",".join(both), "--lm-eval-path", asked / "tasks", "--lm-eval-limit", 1, "--json")
    told = json.loads(run("evaluate", asked / "decoder", *words).stdout)
    assert set(told["lm_eval"]) == set(both)
    with pytest.raises(UnknownNameError, match="lm-eval has no task 'local_tex'"):
        fastprune.lm_eval(asked / "decoder", ["local_tex"], folder=asked / "tasks")


@needs_it
@pytest.mark.filterwarnings("ignore")
def test_pruned_models_are_asked(asked: Path) -> None:
    opened = fastprune.open_pretrained(asked / "decoder")
    stages = {"cost": "params", "scorer": "magnitude", "tuner": "none", "bench": False}
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.6, **stages)
    before = fastprune.lm_eval(result, ["local_text"], tokenizer=opened.tokenizer, folder=asked / "tasks")
    result.save(asked / "small", tokenizer=opened.tokenizer)
    assert fastprune.lm_eval(asked / "small", ["local_text"], folder=asked / "tasks") == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Name data (--data), or tasks of lm-eval (--lm-eval)"),
        (["--lm-eval-limit", 3, "--data", "text.txt"], "--lm-eval-limit belongs to --lm-eval"),
        (["--stride", 3, "--lm-eval", "arc_easy"], "--stride belongs to --data"),
        (["--lm-eval", "arc_easy", "--lm-eval-path", "nowhere"], "The directory of tasks nowhere does not exist"),
    ],
)
def test_options_that_do_not_belong_together(
    asked: Path, run, words: list[object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: name)
    result = run("evaluate", asked / "decoder", *words)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_missing_package_is_told(asked: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    result = run("evaluate", asked / "decoder", "--lm-eval", "arc_easy")
    assert result.exit_code == 2
    assert 'pip install "fastprune[lm-eval]"' in result.stderr


def test_models_that_cannot_be_asked(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ModelError, match="cannot be asked as a chat: its tokenizer has no chat template"):
        fastprune.lm_eval(asked / "decoder", ["local_text"], chat=True)
    with pytest.raises(ModelError, match="needs the tokenizer"):
        fastprune.lm_eval(testing.tiny_model("llama", "ForCausalLM"), ["local_text"])
    with pytest.raises(ModelError, match="asks causal language models; this is a BertModel"):
        fastprune.lm_eval(testing.tiny_model("bert", "Model"), ["local_text"])
    with pytest.raises(OptionError, match="Name a task"):
        fastprune.lm_eval(asked / "decoder", [])
    with pytest.raises(UsageError, match="limit takes an integer"):
        fastprune.lm_eval(asked / "decoder", ["local_text"], limit=0)
