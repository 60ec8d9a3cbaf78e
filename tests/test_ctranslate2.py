"""The format ctranslate2: the same outputs as PyTorch in every family, with heads padded and an emptied sublayer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import fastprune
from fastprune import Pretrained, testing
from fastprune.errors import ModelError
from fastprune.exporting.agreement import difference, example_inputs
from fastprune.exporting.ctranslate2_spec import FAMILIES
from fastprune.exporting.export import export
from fastprune.exporting.opening import open_exported, run_exported
from fastprune.exporting.widening import padding, widened
from fastprune.surgery.materialize import materialize
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import tiny_tokenizer

ctranslate2 = pytest.importorskip("ctranslate2")
HEADS = {"generator": "ForCausalLM", "translator": "ForConditionalGeneration", "speech": "ForSpeechSeq2Seq"}


def opened(family: str, head: str, *, pruned: bool = True) -> Pretrained:
    """Half of the units gone, and the whole first sublayer."""
    model = testing.tiny_model(family, head)
    if family == "marian":  # CTranslate2 begins with zeros, as this family's padding token does
        for settings in (model.config, model.generation_config):
            settings.decoder_start_token_id = settings.pad_token_id = model.config.vocab_size - 1
        model.get_input_embeddings().weight.data[-1] = 0
    tokenizer = tiny_tokenizer(model)
    if family == "marian":
        tokenizer = _named(tokenizer, {model.config.vocab_size - 1: "<pad>", 2: "</s>"})
    task = fastprune.task_for(model.config, type(model))
    found = Pretrained(model=model, tokenizer=tokenizer, task=task, source="")
    groups = found.groups()
    assert groups is not None
    return replace(
        found,
        model=materialize(model, groups, some_mask(groups, empty=groups.items[0].name)).eval() if pruned else model,
    )


def _named(tokenizer, names: dict[int, str]):
    """The tokenizer with other names of some tokens, which are special."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = {
        names.get(number, token): number for token, number in content["model"]["vocab"].items()
    }
    return type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token=tokenizer.unk_token,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_pytorch_does(family: str, tmp_path: Path) -> None:
    model = opened(family, HEADS.get(FAMILIES[family].kind, "Model"))
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    made = export(model, tmp_path / "out", format="ctranslate2")
    zeros, heads = padding(model)
    assert 0 < zeros < heads
    assert made.remark.startswith(f"{zeros} of {heads} heads are zeros")
    exported = run_exported(tmp_path / "out", threads=1)
    assert exported.inputs == made.inputs
    for shape in ((4, 7), (2, 9)):
        assert difference(exported, model.model, example_inputs(model, *shape)) < 1e-5
    after = model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("bert", "ForMaskedLM"),
        ("roberta", "ForTokenClassification"),
        ("distilbert", "ForQuestionAnswering"),
    ],
)
def test_a_head_runs_behind_the_encoder(family: str, head: str, tmp_path: Path) -> None:
    """From weights beside the model; the configuration is that of both libraries."""
    model = opened(family, head)
    export(model, tmp_path / "out", format="ctranslate2")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.model_type == family
    assert not hasattr(config, "fastprune")
    again = open_exported(tmp_path / "out").model
    inputs = example_inputs(model, 3, 6)
    with torch.no_grad():
        expected, found = model.model(**inputs), again(**inputs)
    for name in found:
        real = inputs["attention_mask"].bool() if found[name].shape[:2] == (3, 6) else slice(None)
        torch.testing.assert_close(found[name][real], expected[name][real], atol=1e-5, rtol=1e-4)


def test_a_dense_model_has_no_heads_of_zeros(tmp_path: Path) -> None:
    model = opened("llama", "ForCausalLM", pruned=False)
    assert padding(model)[0] == 0
    made = export(model, tmp_path / "out", format="ctranslate2")
    assert made.remark == ""
    generator = ctranslate2.Generator(str(tmp_path / "out"), device="cpu")
    tokens = [5, 9, 11]
    words = model.tokenizer.convert_ids_to_tokens(tokens)
    found = generator.generate_batch([words], max_length=8, sampling_topk=1, end_token=[])[0].sequences_ids[0]
    with torch.no_grad():
        expected = model.model.generate(torch.tensor([tokens]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert found == expected[0].tolist()


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "whisper"])
def test_counted_padding_is_that_of_the_model(family: str) -> None:
    model = opened(family, HEADS.get(FAMILIES[family].kind, "Model"))
    made = widened(model)
    zeros, heads = padding(model)
    assert zeros == sum(stack.padded for stack in made.stacks)
    assert heads == sum(stack.heads * len(stack.real) for stack in made.stacks)


def test_broken_files(tmp_path: Path) -> None:
    export(opened("bert", "Model"), tmp_path / "out", format="ctranslate2")
    (tmp_path / "out/model.bin").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be opened by CTranslate2"):
        run_exported(tmp_path / "out")
