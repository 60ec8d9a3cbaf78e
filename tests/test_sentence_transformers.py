"""What sentence-transformers saves goes in, and what comes out opens there: the real library on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import fastprune
from fastprune import testing
from fastprune.models.checkpoint import write_companions

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TEXTS = ["the cat sat on the mat", "a dog ran home", "the fast dog", "who is slow", "where was the cat born"]


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that comes with a model is copied to a place of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.fixture
def embedder(tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return save_embedder(BertModel(tiny_config), tiny_tokenizer, tmp_path, "mean", normalize=True)


def save_embedder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, pooling: str, *, normalize: bool
) -> Path:
    """What sentence-transformers makes of a model, with a prompt."""
    from sentence_transformers import SentenceTransformer, models

    model.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    parts = [
        models.Transformer(str(folder / "encoder")),
        models.Pooling(model.config.hidden_size, pooling_mode=pooling),
        *([models.Normalize()] if normalize else []),
    ]
    SentenceTransformer(modules=parts, prompts={"query": "where is "}, device="cpu").save(str(folder / "embedder"))
    return folder / "embedder"


@pytest.mark.usefixtures("own_modules")
def test_a_decoder_that_pools_the_last_token_in_and_out(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Saved with its language model's head, as such encoders are, which neither library opens."""
    from sentence_transformers import SentenceTransformer

    decoder = testing.tiny_model("qwen3", "ForCausalLM")
    save_embedder(decoder, tiny_tokenizer, tmp_path, "lasttoken", normalize=False)
    (tmp_path / "embedder" / "config.json").write_text((tmp_path / "encoder" / "config.json").read_text())
    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join(TEXTS))
    fastprune.prune(str(tmp_path / "embedder"), str(lines), budget=0.5).save(tmp_path / "small")
    for folder in ("embedder", "small"):
        there = SentenceTransformer(str(tmp_path / folder), trust_remote_code=True, device="cpu")
        opened = fastprune.open_pretrained(tmp_path / folder, device="cpu")
        assert opened.tokenizer is not None
        batch = opened.tokenizer(TEXTS, padding=True, return_tensors="pt")
        with torch.no_grad():
            vectors = opened.task.embed(opened.model(**batch), batch)
        np.testing.assert_allclose(there.encode(TEXTS), vectors.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("own_modules")
def test_an_embedding_model_in_and_out(embedder: Path, tmp_path: Path) -> None:
    """With its pooling, normalisation and prompts; the embeddings are those of the pruned encoder."""
    from sentence_transformers import SentenceTransformer

    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join(TEXTS))
    result = fastprune.prune(str(embedder), str(lines), budget=0.5)
    result.save(tmp_path / "small")
    there = SentenceTransformer(str(tmp_path / "small"), trust_remote_code=True, device="cpu")
    assert there.prompts["query"] == "where is "
    found = there.encode(["the cat"], prompt_name="query")
    opened = fastprune.open_pretrained(tmp_path / "small", device="cpu")
    assert opened.tokenizer is not None
    with torch.no_grad():
        hidden = opened.model(**opened.tokenizer(["where is the cat"], return_tensors="pt"))[0]
    expected = torch.nn.functional.normalize(hidden.mean(1), dim=-1).numpy()
    np.testing.assert_array_equal(found, expected)
    dense = SentenceTransformer(str(embedder), device="cpu")
    assert not np.allclose(found, dense.encode(["the cat"], prompt_name="query"), atol=1e-3)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (there, dense)]
    assert sizes[0] < sizes[1]


@pytest.mark.usefixtures("own_modules")
def test_a_cross_encoder_in_and_out(
    tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """One that scores pairs: its activation stays, the scores are those of the pruned model."""
    from sentence_transformers import CrossEncoder

    tiny_config.num_labels = 1
    BertForSequenceClassification(tiny_config).save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    CrossEncoder(str(tmp_path / "plain"), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "dense"))
    rows = tmp_path / "pairs.csv"
    rows.write_text("sentence1,sentence2\n" + "\n".join(f"{one},{two}" for one in TEXTS for two in TEXTS[:2]))
    fastprune.prune(str(tmp_path / "dense"), str(rows), budget=0.5).save(tmp_path / "small")
    there = CrossEncoder(str(tmp_path / "small"), trust_remote_code=True, device="cpu")
    found = there.predict([(TEXTS[0], TEXTS[1])])
    opened = fastprune.open_pretrained(tmp_path / "small", device="cpu")
    assert opened.tokenizer is not None
    with torch.no_grad():
        logits = opened.model(**opened.tokenizer([TEXTS[0]], [TEXTS[1]], return_tensors="pt")).logits
    np.testing.assert_allclose(found, logits.sigmoid()[:, 0].numpy(), rtol=1e-6)
    assert opened.model.num_parameters() < BertForSequenceClassification(tiny_config).num_parameters()


@pytest.mark.parametrize("place", [1, 2])
def test_a_path_that_leads_out_of_the_directory_is_refused(embedder: Path, tmp_path: Path, place: int) -> None:
    modules = json.loads((embedder / "modules.json").read_text())
    (embedder / modules[place]["path"]).rename(tmp_path / "elsewhere")
    modules[place]["path"] = "../elsewhere"
    (embedder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(fastprune.errors.ModelError, match=r"names the path '\.\./elsewhere', which is outside of"):
        fastprune.open_pretrained(embedder, device="cpu")


def test_nothing_is_written_outside_of_an_output(tmp_path: Path) -> None:
    with pytest.raises(fastprune.errors.CheckpointError, match=r"The file '\.\./victim' lies outside"):
        write_companions(tmp_path, None, {"../victim": b"taken"})
    assert not (tmp_path.parent / "victim").exists()
