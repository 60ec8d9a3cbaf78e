"""Models with fewer tokens in other runtimes: llama.cpp and CTranslate2 read the same tokens and give the same outputs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.exporting.agreement import difference, example_inputs, first_target_token
from fastprune.exporting.export import export
from fastprune.exporting.gguf import GgufFormat
from fastprune.exporting.opening import run_exported
from fastprune.models.pretrained import Pretrained
from fastprune.vocabulary.trimming import trim_vocabulary
from small_tokenizers import KINDS, lines, odd_lines, wrapped


def missing(*names: str) -> pytest.MarkDecorator:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}")


def trimmed(model_type: str, head: str, kind: str, share: float = 0.65, **config: Any) -> Pretrained:
    """A tiny model with a tokenizer of this kind, and a share of its tokens."""
    tokenizer = wrapped(KINDS[kind]())
    ids = {name: tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "unk", "s")}
    special = {"pad_token_id": ids["pad"], "bos_token_id": ids["s"], "eos_token_id": tokenizer.eos_token_id}
    model = testing.tiny_model(model_type, head, vocab_size=len(tokenizer) + 2, **special, **config)
    task = fastprune.task_for(model.config, type(model))
    whole = Pretrained(model=model, tokenizer=tokenizer, task=task, source="tiny")
    small = trim_vocabulary(whole, lines(200, 1), share, progress=False)
    assert len(small.tokenizer) < 0.7 * len(tokenizer)  # type: ignore[arg-type]
    return small


@missing("gguf", "xllamacpp")
@pytest.mark.parametrize(
    "kind", ["byte level", "byte level, every merge", "byte fallback", "byte fallback, every merge"]
)
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_llama_cpp_reads_the_same_tokens(model_type: str, kind: str, tmp_path: Path) -> None:
    from test_gguf import log_probabilities

    small = trimmed(model_type, "ForCausalLM", kind, tie_word_embeddings=True)
    model, tokenizer = small.model, small.tokenizer
    assert tokenizer is not None
    made = export(small, tmp_path / "out", format=GgufFormat(type="f32"))
    rows = model.config.vocab_size  # type: ignore[union-attr]
    for text in (*lines(2, 5), *odd_lines(2, 5)):
        text = text[:12].strip()
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        by_ids = log_probabilities(made.files[0], ids, rows, a_letter(tokenizer))
        seen = by_ids.isfinite()
        assert seen.sum() >= rows - 4
        torch.testing.assert_close(by_ids[seen], expected[seen], atol=0.03, rtol=0)
        by_text = log_probabilities(made.files[0], text, rows, a_letter(tokenizer))
        torch.testing.assert_close(by_text, by_ids, atol=1e-4, rtol=0)


def a_letter(tokenizer: Any) -> int:
    """The id of a token that is a whole letter."""
    return next(place for token, place in sorted(tokenizer.get_vocab().items()) if token in "abcde")


@missing("ctranslate2")
@pytest.mark.parametrize(
    ("model_type", "head", "kind"),
    [
        ("bert", "Model", "wordpiece"),
        ("bert", "ForSequenceClassification", "wordpiece"),
        ("llama", "ForCausalLM", "byte fallback"),
        ("gpt2", "ForCausalLM", "byte level"),
        ("t5", "ForConditionalGeneration", "unigram with bytes"),
    ],
)
def test_ctranslate2_reads_the_same_tokens(model_type: str, head: str, kind: str, tmp_path: Path) -> None:
    small = trimmed(model_type, head, kind)
    tokenizer, model = small.tokenizer, small.model
    assert tokenizer is not None
    export(small, tmp_path / "out", format="ctranslate2")
    exported = run_exported(tmp_path / "out", threads=1)
    assert difference(exported, model, example_inputs(small, 3, 7)) < 1e-4
    ids = tokenizer(lines(1, 5)[0])["input_ids"][:20]
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        start = first_target_token(model)  # CTranslate2 begins with it
        inputs["decoder_input_ids"] = torch.tensor([[start, *ids[:3]]])
    assert difference(exported, model, inputs) < 1e-4


@missing("ctranslate2")
def test_ctranslate2_stops_at_the_new_end_token(tmp_path: Path) -> None:
    import ctranslate2

    small = trimmed("llama", "ForCausalLM", "byte fallback")
    model, tokenizer = small.model, small.tokenizer
    assert tokenizer is not None
    export(small, tmp_path / "out", format="ctranslate2")
    ids = tokenizer(lines(1, 6)[0], add_special_tokens=False)["input_ids"][:6]
    with torch.no_grad():
        expected = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=None)  # type: ignore[union-attr]
    generator = ctranslate2.Generator(str(tmp_path / "out"), device="cpu")
    found = generator.generate_batch(
        [tokenizer.convert_ids_to_tokens(ids)], max_length=len(ids) + 6, sampling_topk=1, end_token=[]
    )[0]
    assert found.sequences_ids[0][: len(expected[0])] == expected[0].tolist()
