"""What sentence-transformers saves goes in, and what comes out opens there: the real library on both sides."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import fastprune
from fastprune import testing
from fastprune.data import activation_named, model_inputs
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


def test_the_plain_form_opens_without_code(embedder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join(TEXTS))
    options: dict[str, Any] = {"recipe": "fast", "servable": True, "bench": False, "progress": False}
    result = fastprune.prune(str(embedder), str(lines), budget=0.6, **options)
    folder = result.save(tmp_path / "plain")
    assert not list(folder.rglob("*.py"))
    opened = SentenceTransformer(str(folder), device="cpu")
    small = fastprune.open_pretrained(folder)
    assert opened[0].auto_model.config.intermediate_size == small.model.config.intermediate_size
    ours = SentenceTransformer(str(folder), device="cpu")
    ours[0].auto_model.load_state_dict(result.model.state_dict())
    assert np.array_equal(ours.encode(TEXTS), opened.encode(TEXTS))


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


SENTENCES = [
    "The Cat sat on the mat",
    "a DOG ran home fast",
    "who is slow",
    "where was the cat born in Paris London home",
]
ROWS = [
    (one, other, float(abs(i - j))) for i, one in enumerate(SENTENCES) for j, other in enumerate(SENTENCES) if i < j
]
WORDS = ["cat", "dog", "sat", "ran", "on", "mat", "home", "fast", "slow", "who", "where", "paris", "london", "born"]
PROMPTS = {"query": "where is ", "document": "the dog ", "own": "a b c "}


def edited(folder: Path, file: str, **entries: Any) -> None:
    """Change entries of a JSON file of a directory."""
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | entries))


def with_dense(folder: Path, **options: Any) -> None:
    """Put a dense layer between the pooling and the normalisation."""
    from sentence_transformers import models

    (folder / "3_Dense").mkdir()
    models.Dense(16, options.pop("out_features", 7), **options).save(str(folder / "3_Dense"))
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    dense = {"idx": 2, "name": "3", "path": "3_Dense", "type": kind}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]))


CONFIG, ENCODER, POOLING = "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json"
SETTINGS: dict[str, Callable[[Path], None]] = {
    "none": lambda folder: None,
    "default prompt": lambda folder: edited(folder, CONFIG, prompts=PROMPTS, default_prompt_name="own"),
    "prompt that is not pooled": lambda folder: (
        edited(folder, CONFIG, prompts=PROMPTS, default_prompt_name="own"),
        edited(folder, POOLING, include_prompt=False),
    )[0],
    "truncated vectors": lambda folder: edited(folder, CONFIG, truncate_dim=5),
    "lower case": lambda folder: edited(folder, ENCODER, do_lower_case=True),
    "maximum length": lambda folder: edited(folder, ENCODER, max_seq_length=5),
    "maximum length of the tokenizer": lambda folder: edited(folder, ENCODER, tokenizer_args={"model_max_length": 5}),
    "dense": with_dense,
    "dense without bias": lambda folder: with_dense(folder, bias=False, activation_function=torch.nn.Identity()),
    "dense with a residual": lambda folder: with_dense(folder, use_residual=True),
    "dense around": lambda folder: with_dense(folder, out_features=16, use_residual=True),
    **{
        f"pooling {name}": lambda folder, name=name: edited(folder, POOLING, pooling_mode=name)  # type: ignore[misc]
        for name in ("cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["cls", "mean"])
    },
    **{
        f"similarity {name}": lambda folder, name=name: edited(folder, CONFIG, similarity_fn_name=name)  # type: ignore[misc]
        for name in ("dot", "euclidean", "manhattan")
    },
}


@pytest.fixture
def cased_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tiny tokenizer, to which words with capitals are unknown."""
    from tokenizers import normalizers

    tiny_tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    return tiny_tokenizer


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_gives_the_numbers_of_encode(
    setting: str, tiny_config: BertConfig, cased_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    folder = save_embedder(BertModel(tiny_config), cased_tokenizer, tmp_path, "mean", normalize=setting != "none")
    SETTINGS[setting](folder)
    there = SentenceTransformer(str(folder), device="cpu")
    opened = fastprune.open_pretrained(folder, device="cpu")
    assert opened.tokenizer is not None
    rows = Dataset.from_dict(
        dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*ROWS, strict=True)), strict=True))
    )
    batches = fastprune.make_batches(rows, opened.task, opened.tokenizer, batch_size=4)
    vectors = np.zeros((len(batches.samples), there.get_embedding_dimension() or 0), dtype=np.float32)
    with torch.no_grad():
        for batch in batches:
            outputs = opened.model(**model_inputs(batch, opened.task))
            vectors[batch["sample"]] = opened.task.embed(outputs, batch)  # type: ignore[attr-defined]
    texts = [ROWS[sample["row"]][sample["side"]] for sample in batches.samples]
    np.testing.assert_allclose(vectors, there.encode(texts), atol=1e-5)
    sides = [there.encode([row[side] for row in ROWS]) for side in (0, 1)]
    expected = spearmanr(there.similarity_pairwise(*sides), [row[2] for row in ROWS]).statistic
    assert fastprune.evaluate(opened.model, batches)["spearman"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "prompts"),
    [
        (("query", "passage"), ("query", "document")),
        (("anchor", "positive", "negative"), ("query", "document", "document")),
        (("question", "context"), ("query", "document")),
        (("document",), ("document",)),
        (("sentence1", "sentence2"), ("own", "own")),
        (("text",), ("own",)),
    ],
)
def test_queries_and_documents_stand_behind_their_prompts(
    embedder: Path, names: tuple[str, ...], prompts: tuple[str, ...]
) -> None:
    edited(embedder, CONFIG, prompts=PROMPTS, default_prompt_name="own")
    opened = fastprune.open_pretrained(embedder, device="cpu")
    assert opened.tokenizer is not None
    texts = TEXTS[: len(names)]
    data = Dataset.from_dict({name: [text] for name, text in zip(names, texts, strict=True)})
    encoded = opened.task.encode(data, opened.tokenizer, columns=fastprune.Columns(text=names), max_length=64, seed=0)
    expected = [PROMPTS[prompt] + text for prompt, text in zip(prompts, texts, strict=True)]
    assert [sample["input_ids"] for sample in encoded] == opened.tokenizer(expected)["input_ids"]


def test_the_prompt_for_passages_is_that_of_documents(embedder: Path) -> None:
    edited(embedder, CONFIG, prompts={"query": "who ", "document": "", "passage": "the dog "})
    task: Any = fastprune.open_pretrained(embedder, device="cpu").task
    assert (task.prompt, task.query_prompt, task.document_prompt) == ("", "who ", "the dog ")


@pytest.mark.parametrize(("length", "usual"), [(2000, 2000), (10**30, 512)])
def test_texts_are_cut_at_the_own_maximum_and_not_at_512(embedder: Path, length: int, usual: int) -> None:
    edited(embedder, "tokenizer_config.json", model_max_length=length)
    assert fastprune.open_pretrained(embedder, device="cpu").task.usual_length == usual


@pytest.mark.usefixtures("own_modules")
def test_settings_survive_saving(
    tiny_config: BertConfig, cased_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save_embedder(BertModel(tiny_config), cased_tokenizer, tmp_path, "mean", normalize=True)
    with_dense(folder)
    edited(folder, CONFIG, prompts=PROMPTS, default_prompt_name="own", truncate_dim=5, similarity_fn_name="dot")
    (folder / ENCODER).rename(folder / "sentence_roberta_config.json")  # a name that older versions gave
    edited(folder, "sentence_roberta_config.json", do_lower_case=True, max_seq_length=6)
    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join(SENTENCES))
    fastprune.prune(str(folder), str(lines), budget=0.6, bench=False).save(tmp_path / "small")
    opened = fastprune.open_pretrained(tmp_path / "small", device="cpu")
    there = SentenceTransformer(str(tmp_path / "small"), trust_remote_code=True, device="cpu")
    assert opened.tokenizer is not None
    batches = fastprune.make_batches(str(lines), opened.task, opened.tokenizer)
    (batch,) = batches
    with torch.no_grad():
        vectors = opened.task.embed(opened.model(**model_inputs(batch, opened.task)), batch)  # type: ignore[attr-defined]
    expected = there.encode(SENTENCES)[[sample["row"] for sample in batches.samples]]
    assert vectors.shape == (4, 5)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "entries", "told"),
    [
        (ENCODER, {"query_length": 8}, "query_length=8"),
        (ENCODER, {"processing_kwargs": {"text": {"max_length": 4}}}, "processing_kwargs.text.max_length=4"),
        (ENCODER, {"config_args": {"num_hidden_layers": 1}}, "config_args.num_hidden_layers=1"),
        (ENCODER, {"modality_config": {"message": {}}}, "modality_config="),
        (CONFIG, {"default_prompt_name": "none"}, "the default prompt 'none'"),
        (CONFIG, {"model_type": "SparseEncoder"}, "the modules Transformer, Pooling, Normalize"),
        (POOLING, {"pooling_mode": "median"}, "the pooling median"),
        ("modules.json", None, "has its own code for custom_st.Transformer"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    embedder: Path, file: str, entries: dict[str, Any] | None, told: str
) -> None:
    if entries is None:
        modules = json.loads((embedder / file).read_text())
        modules[0]["type"] = "custom_st.Transformer"
        (embedder / file).write_text(json.dumps(modules))
    else:
        edited(embedder, file, **entries)
    with pytest.raises(fastprune.errors.ModelError, match=re.escape(told)):
        fastprune.open_pretrained(embedder, device="cpu")


def test_the_advice_for_an_unknown_module_can_be_followed(embedder: Path, tmp_path: Path) -> None:
    modules = json.loads((embedder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.LSTM"
    (embedder / "modules.json").write_text(json.dumps(modules))
    told = re.escape(f"copy {embedder} without modules.json and open the copy")
    with pytest.raises(fastprune.errors.ModelError, match=told):
        fastprune.open_pretrained(embedder, device="cpu")
    shutil.copytree(embedder, tmp_path / "copy", ignore=shutil.ignore_patterns("modules.json"))
    assert isinstance(fastprune.open_pretrained(tmp_path / "copy", device="cpu").model, BertModel)


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity", "Tanh"])
@pytest.mark.parametrize("place", ["settings", "configuration", "old configuration"])
def test_a_reranker_gives_the_numbers_of_predict(
    tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, activation: str, place: str
) -> None:
    """With its activation and its prompt, wherever versions of the library have left the activation."""
    from sentence_transformers import CrossEncoder

    tiny_config.num_labels = 1
    name = (
        f"torch.nn.modules.activation.{activation}" if activation != "Identity" else "torch.nn.modules.linear.Identity"
    )
    BertForSequenceClassification(tiny_config).save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    folder = tmp_path / "plain"
    if place == "settings":
        folder = tmp_path / "model"
        CrossEncoder(str(tmp_path / "plain"), num_labels=1, device="cpu").save_pretrained(str(folder))
        edited(folder, CONFIG, activation_fn=name, prompts={"own": "who is "}, default_prompt_name="own")
    elif place == "configuration":
        edited(folder, "config.json", sentence_transformers={"activation_fn": name})
    else:
        edited(folder, "config.json", sbert_ce_default_activation_function=name)
    there = CrossEncoder(str(folder), device="cpu")
    predicted = there.predict([row[:2] for row in ROWS])
    rows = tmp_path / "rows.csv"
    rows.write_text("sentence1,sentence2,score\n" + "\n".join(f"{a},{b},{c}" for a, b, c in ROWS))
    metrics = fastprune.evaluate(str(folder), str(rows))
    errors = np.square(predicted - np.array([row[2] for row in ROWS]))
    assert metrics["mse"] == pytest.approx(float(errors.mean()), rel=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_retrieval_gives_the_numbers_of_the_evaluator(embedder: Path, similarity: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    edited(embedder, CONFIG, prompts=PROMPTS, similarity_fn_name=similarity)
    draw = np.random.default_rng(0)
    queries, documents = ([" ".join(draw.choice(WORDS, 6)) for _ in range(count)] for count in (8, 30))
    relevant = {str(query): {str(each) for each in draw.choice(30, 2)} for query in range(8)}
    rows = [(queries[int(query)], documents[int(each)], 1) for query, found in relevant.items() for each in found]
    rows += [(queries[0], document, 0) for index, document in enumerate(documents) if str(index) not in relevant["0"]]
    data = Dataset.from_dict(dict(zip(("query", "passage", "label"), map(list, zip(*rows, strict=True)), strict=True)))
    opened = fastprune.open_pretrained(embedder, device="cpu")
    metrics = fastprune.evaluate(opened.model, data, task=opened.task, tokenizer=opened.tokenizer)
    evaluator = InformationRetrievalEvaluator(
        {str(index): text for index, text in enumerate(queries)},
        {str(index): text for index, text in enumerate(documents)},
        relevant,
        precision_recall_at_k=[10],
    )
    found = evaluator(SentenceTransformer(str(embedder), device="cpu"))
    for name in ("ndcg@10", "mrr@10", "recall@10"):
        assert metrics[name] == pytest.approx(found[f"{similarity}_{name}"], abs=1e-5), name


def test_scores_of_queries_and_documents_are_correlated_too(embedder: Path) -> None:
    """Each behind its prompt, as encode_query and encode_document put it."""
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    edited(embedder, CONFIG, prompts=PROMPTS, default_prompt_name="own")
    queries, documents, scores = map(list, zip(*ROWS, strict=True))
    there = SentenceTransformer(str(embedder), device="cpu")
    similar = there.similarity_pairwise(there.encode_query(queries), there.encode_document(documents))
    opened = fastprune.open_pretrained(embedder, device="cpu")
    data = Dataset.from_dict({"query": queries, "document": documents, "score": scores})
    metrics = fastprune.evaluate(opened.model, data, task=opened.task, tokenizer=opened.tokenizer)
    assert metrics["spearman"] == pytest.approx(spearmanr(similar, scores).statistic, abs=1e-6)
    assert next(iter(metrics)) == "ndcg@10"


def test_a_directory_of_beir_gives_the_numbers_of_the_evaluator(embedder: Path, tmp_path: Path) -> None:
    """Its whole corpus is ranked, documents without a judgement and documents of one text included."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    draw = np.random.default_rng(1)
    queries = {f"q{index}": " ".join(draw.choice(WORDS, 4)) for index in range(6)}
    corpus = {f"d{index}": " ".join(draw.choice(WORDS, 6)) for index in range(40)}
    relevant = {query: {f"d{index}" for index in draw.choice(30, 2)} for query in queries}
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": key, "title": text[:3], "text": text[3:].strip()} for key, text in corpus.items()]
    corpus = {line["_id"]: f"{line['title']} {line['text']}".strip() for line in lines}
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": key, "text": queries[key]}) for key in queries))
    judged = [f"{query}\t{document}\t1" for query, found in relevant.items() for document in found]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    metrics = fastprune.evaluate(str(embedder), str(folder))
    evaluator = InformationRetrievalEvaluator(queries, corpus, relevant, precision_recall_at_k=[10])
    found = evaluator(SentenceTransformer(str(embedder), device="cpu"))
    assert metrics == pytest.approx({name: found[f"cosine_{name}"] for name in metrics}, abs=1e-5)


def test_a_reranking_gives_the_numbers_of_the_evaluator(
    tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    tiny_config.num_labels = 1
    BertForSequenceClassification(tiny_config).save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    CrossEncoder(str(tmp_path / "plain"), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "model"))
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 5)) for _ in range(30)]
    asked = [
        {
            "query": texts[5 * row],
            "positive": texts[5 * row + 1 : 5 * row + 2],
            "negative": texts[5 * row + 2 : 5 * row + 5],
        }
        for row in range(6)
    ]
    rows = [
        (each["query"], text, float(kind == "positive"))
        for each in asked
        for kind in ("positive", "negative")
        for text in each[kind]
    ]
    data = Dataset.from_dict(dict(zip(("query", "document", "label"), map(list, zip(*rows, strict=True)), strict=True)))
    opened = fastprune.open_pretrained(tmp_path / "model", device="cpu")
    metrics = fastprune.evaluate(opened.model, data, task=opened.task, tokenizer=opened.tokenizer)
    evaluator = CrossEncoderRerankingEvaluator(asked, at_k=10, show_progress_bar=False)
    found = evaluator(CrossEncoder(str(tmp_path / "model"), device="cpu"))
    assert {"pearson", "spearman", "mse"} < set(metrics)
    for name in ("ndcg@10", "mrr@10"):
        assert metrics[name] == pytest.approx(found[name], abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"text": ["a"]}, "need pairs of texts with scores, or queries with relevant documents"),
        ({"sentence1": ["a"], "sentence2": ["b"]}, "need pairs of texts with scores"),
        ({"query": ["a"], "passage": ["b"], "label": [0]}, "queries with relevant documents"),
    ],
)
def test_data_without_a_metric_are_told_before_the_model_runs(
    embedder: Path, rows: dict[str, list[Any]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = fastprune.open_pretrained(embedder, device="cpu")
    monkeypatch.setattr(opened.model, "forward", None)
    with pytest.raises(fastprune.errors.DataError, match=told):
        fastprune.evaluate(opened.model, Dataset.from_dict(rows), task=opened.task, tokenizer=opened.tokenizer)


def test_an_activation_is_no_way_to_other_code() -> None:
    with pytest.raises(fastprune.errors.ModelError, match="none of torch.nn's"):
        activation_named("os.system")
    with pytest.raises(fastprune.errors.ModelError, match="none of torch.nn's"):
        activation_named("torch.nn.Linear")


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
