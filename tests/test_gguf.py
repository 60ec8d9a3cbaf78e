"""GGUF files, read by llama.cpp itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import testing
from fastprune.errors import ModelError
from fastprune.exporting import gguf_decoder, gguf_tokenizer
from fastprune.exporting.export import export
from fastprune.exporting.gguf import GgufFormat
from fastprune.models.pretrained import Pretrained
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import tiny_bpe_tokenizer
from fastprune.units import resolve_groups

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "xllamacpp")), reason="needs gguf and xllamacpp"
)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def tiny(model_type: str, **config: Any) -> Any:
    if model_type == "qwen3":
        config |= {"tie_word_embeddings": True}
    return testing.tiny_model(model_type, "ForCausalLM", **config)


def opened(model: Any, tokenizer: Any = None) -> Pretrained:
    task = fastprune.task_for(model.config, type(model))
    return Pretrained(model=model, tokenizer=tokenizer or tiny_bpe_tokenizer(model), task=task, source="")


def pruned(model: Any, *empty: str, biases: bool = True) -> Any:
    """Half of all units, none of the named groups, and random biases of the consumers."""
    groups = resolve_groups(fastprune.architecture_for(model), model)
    mask = some_mask(groups)
    for group in groups:
        if group.name.endswith(empty) and empty:
            mask = type(mask)({**mask.values, group.name: torch.zeros(group.units, dtype=torch.bool)})
    small = fastprune.materialize(model, groups, mask).eval()
    if biases:
        for layer in small.model.layers:
            for consumer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                consumer.bias = nn.Parameter(0.3 * torch.randn(model.config.hidden_size))
    return small


def log_probabilities(file: Path, prompt: list[int] | str, vocabulary: int, a_letter: int = 20) -> torch.Tensor:
    """llama.cpp's log probabilities of the token after a prompt, [vocabulary]."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_gpu_layers, settings.warmup = str(file), 64, 0, False
    settings.verbosity = -1
    settings.cpuparams.n_threads = 1
    server = xllamacpp.Server(settings)
    answer: Any = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": vocabulary,
            "temperature": -1.0,
            "logit_bias": [
                [a_letter, 1000.0]
            ],  # nothing is answered for part of a letter; probabilities are those before
        }
    )
    found = torch.full((vocabulary,), -torch.inf)
    for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found


@pytest.mark.parametrize("emptied", [(), ("0.attention",), ("1.ffn",), ("1.attention", "0.ffn")], ids=str)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_llama_cpp_computes_the_pruned_model(model_type: str, emptied: tuple[str, ...], tmp_path: Path) -> None:
    model = pruned(tiny(model_type), *emptied, biases=model_type != "qwen3")
    made = export(opened(model), tmp_path / "out", format=GgufFormat(type="f32"))
    ids = [5, 17, 40, 11, 23, 60, 7]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    found = log_probabilities(made.files[0], ids, model.config.vocab_size)
    seen = found.isfinite()
    assert int(seen.sum()) >= 60  # llama.cpp leaves out the end token
    torch.testing.assert_close(found[seen], expected[seen], atol=0.01, rtol=0)


@pytest.mark.parametrize("rope", ["linear", "llama3"])
def test_scaled_positions(rope: str, tmp_path: Path) -> None:
    scaling = {"rope_type": rope, "rope_theta": 100.0, "factor": 4.0}
    if rope == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    model = tiny("llama", rope_parameters=scaling)
    made = export(opened(model), tmp_path / "out", format=GgufFormat(type="f32"))
    ids = list(range(3, 43))
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    found = log_probabilities(made.files[0], ids, model.config.vocab_size)
    torch.testing.assert_close(found[found.isfinite()], expected[found.isfinite()], atol=0.01, rtol=0)


@pytest.mark.parametrize(("type_name", "atol"), [("f16", 0.02), ("q8_0", 0.5), ("q4_0", 2.0)])
def test_fewer_bits(type_name: Any, atol: float, tmp_path: Path) -> None:
    """Blocks of 32 need widths that pruning does not keep to: FFNs are padded."""
    model = tiny(
        "llama", hidden_size=64, head_dim=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=38
    )
    model = pruned(model)
    assert model.model.layers[0].mlp.down_proj.weight.shape == (64, 19)
    made = export(opened(model), tmp_path / "out", format=GgufFormat(type=type_name))
    ids = [5, 17, 40, 11, 23, 60, 7]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    found = log_probabilities(made.files[0], ids, model.config.vocab_size)
    seen = found.isfinite()
    torch.testing.assert_close(found[seen], expected[seen], atol=atol, rtol=0)


def bpe(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 300 tokens that splits text as one of the known kinds."""
    splits = {
        "gpt-2": ByteLevel(add_prefix_space=False),
        "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    }
    for name, pattern in gguf_tokenizer.SPLITS.items():
        levels = ByteLevel(add_prefix_space=False, use_regex=False)
        splits[name] = Sequence([Split(Regex(pattern), "isolated"), levels])
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = splits[kind]
    trainer = BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


TEXT = "The cat's 1234 hats, THEY'LL say:  don't!\n\n  e = mc2\tдядя 那 2026"


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", *gguf_tokenizer.SPLITS])
def test_text_is_split_as_by_transformers(kind: str, tmp_path: Path) -> None:
    tokenizer, model = bpe(kind), tiny("llama", vocab_size=300)
    made = export(opened(model, tokenizer), tmp_path / "out", format=GgufFormat(type="f32"))
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    by_ids = log_probabilities(made.files[0], ids, 300)
    torch.testing.assert_close(log_probabilities(made.files[0], TEXT, 300), by_ids, atol=1e-5, rtol=0)


def test_sentencepiece_text(tmp_path: Path) -> None:
    """Pieces with a byte for every unknown character, as of Llama 2."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    letters = ["\u2581", *"abcdehlorstw"]
    merges = [
        ("h", "e"),
        ("\u2581", "he"),
        ("l", "l"),
        ("\u2581he", "ll"),
        ("o", "r"),
        ("\u2581", "w"),
        ("\u2581w", "or"),
    ]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(each) for each in merges)]
    tokenizer = Tokenizer(
        BPE({token: place for place, token in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = NormalizerSequence([Prepend("\u2581"), Replace(" ", "\u2581")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = tiny("llama", vocab_size=len(tokens) + 3)  # three rows without a token
    made = export(opened(model, fast), tmp_path / "out", format=GgufFormat(type="f32"))
    text = "hello world, chestła"
    ids = fast(text, add_special_tokens=False)["input_ids"]
    found, expected = (
        log_probabilities(made.files[0], prompt, model.config.vocab_size, tokens.index("c")) for prompt in (text, ids)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "tokenizer", "says"),
    [
        (lambda: testing.tiny_model("gpt2", "ForCausalLM"), None, "reads layers of different widths of these"),
        (lambda: testing.tiny_model("llama", "ForSequenceClassification"), None, "reads layers of different widths"),
        (lambda: testing.tiny_model("qwen3", "ForCausalLM", tie_word_embeddings=False), None, "are not tied"),
        (lambda: pruned(tiny("qwen3")), None, "has no biases, and this model has 4"),
        (lambda: tiny("llama", hidden_act="gelu"), None, "activation silu only, not gelu"),
        (lambda: tiny("llama"), testing.tiny_tokenizer, "Only BPE tokenizers can be written"),
        (
            lambda: tiny("llama", vocab_size=299),
            lambda model: bpe("gpt-2"),
            "has 300 tokens, and the embedding only 299",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused(model: Any, tokenizer: Any, says: str, tmp_path: Path) -> None:
    shown = model()
    given = opened(shown, tokenizer and tokenizer(shown))
    with pytest.raises(ModelError, match=says):
        export(given, tmp_path / "out", format=GgufFormat(type="f32"))
    assert not (tmp_path / "out").exists()


def test_blocks_of_32_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="multiples of 32; they are 32 and 8. Use --set type=f16"):
        export(opened(tiny("llama")), tmp_path / "out", format=GgufFormat(type="q8_0"))


def test_no_tokenizer(tmp_path: Path) -> None:
    model = tiny("llama")
    bare = Pretrained(model=model, tokenizer=None, task=fastprune.task_for(model.config, type(model)), source="")
    with pytest.raises(ModelError, match="holds its tokenizer"):
        export(bare, tmp_path / "out", format=GgufFormat(type="f32"))


def test_a_sliding_window_limits_the_context() -> None:
    config = tiny("mistral", sliding_window=16).config
    assert gguf_decoder.context_length(config) == 16
