"""Regression: one number per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, activation_named, label_column, stored_activation, text_columns
from fastprune.errors import ModelError
from fastprune_tasks.labels import SCORES, labels_of, numbers, read_labels
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.ranking import RANKED, judged_pairs, ranking_metrics, roles
from fastprune_tasks.recordings import classifies_recordings
from fastprune_tasks.texts import PAIRS, SINGLES, encode_texts, end_of, ended, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def is_regression(config: PretrainedConfig) -> bool:
    """Whether a sequence classification head is used for regression, by transformers' own rule."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One number per text or pair of texts, the mean of a unit Gaussian; a reranker's score of a query and a document, too.

    Attributes:
        prompt: Text in front of each (first) text.
        end: Token that each text must end in, because its state is read; None: none.
        activation: Function of the model's output, as a CrossEncoder of sentence-transformers applies it; None: none.
    """

    name: ClassVar[str] = "regression"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*RANKED, *PAIRS, *SINGLES)
    usual_labels: ClassVar[tuple[str, ...]] = SCORES
    label_form: ClassVar[str] = "number"

    prompt: str = ""
    end: int | None = None
    activation: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Heads for sequence classification of texts that are used for regression."""
        texts = super().serves(config, class_name) and not classifies_recordings(class_name)
        return texts and is_regression(config)

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Check that the model has one output, and read the activation that a CrossEncoder left in the configuration.

        Raises:
            ModelError: The model has several outputs, or the activation is not of torch.
        """
        if config.num_labels != 1:
            raise ModelError(f"Regression is for models with one output; this one has {config.num_labels}.")
        named = stored_activation(config.to_dict())
        return cls(activation=activation_named(named) if named else None, end=end_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode texts, and labels as floats.

        Of a column of queries and columns of documents, each query with each of its documents is a sample, with its ``query`` for
        the metrics.
        """
        names = text_columns(data, columns, self.usual_inputs)
        column = label_column(data, columns, self.usual_labels)
        labels = read_labels(data, column)
        given = None if labels is None else numbers(str(column), labels)
        scores: Sequence[float | None] = given or []
        if "query" in roles(names) and len(names) > 1:
            rows = judged_pairs(data, names, given)
            texts = [[self.prompt + row.query for row in rows], [row.document for row in rows]]
            samples = tokenized(tokenizer, texts, max_length)
            samples = [{**sample, "query": row.key} for sample, row in zip(samples, rows, strict=True)]
            scores = [row.relevance for row in rows]
        else:
            samples = encode_texts(
                data, tokenizer, columns=Columns(text=names), max_length=max_length, prompt=self.prompt
            )
        samples = ended(samples, self.end, max_length)
        for sample, score in zip(samples, scores, strict=False):
            if score is not None:
                sample["labels"] = score
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared error, [samples]."""
        return gaussian_loss(self._scores(outputs), batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The score plus unit Gaussian noise, [samples]."""
        return {"labels": draw_gaussian(self._scores(outputs), generator).squeeze(1)}

    def _scores(self, outputs: Any) -> Tensor:
        """The output behind the activation, [samples, 1]."""
        scores = full_precision(outputs.logits)
        return scores if self.activation is None else self.activation(scores)

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What the metrics need: labels, and of queries and documents several documents of one query."""
        if super().missing(samples) or "query" not in samples[0] or _rankings(samples):
            return super().missing(samples)
        if len({sample["labels"] for sample in samples}) > 1:  # a score of each pair, whose order can be compared
            return ""
        return (
            "Metrics of a reranker need queries with several documents, some relevant and some not: labels above 0 and 0, or "
            "columns such as positive and negative."
        )

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Pearson's and Spearman's correlation, and the mean squared error; of a reranker nDCG@10 and MRR@10, too.

        A reranker orders the documents that the data holds for each query.
        """
        from torchmetrics.functional.regression import mean_squared_error  # imported here because it takes seconds

        known = [(self._scores(outputs).squeeze(1), labels_of(batch), batch) for outputs, batch in results]
        predicted = torch.cat([scores for scores, _, _ in known])  # [samples]
        labels = torch.cat([labels for _, labels, _ in known]).to(predicted)  # [samples]
        figures = {**correlations(predicted, labels), "mse": float(mean_squared_error(predicted, labels))}
        rankings = _rankings(samples)
        if not rankings:
            return figures
        order = torch.cat([batch["sample"] for _, _, batch in known]).argsort()
        scores, relevance = predicted[order].cpu(), labels[order].cpu()
        return ranking_metrics(((scores[rows], relevance[rows]) for rows in rankings), recall=False) | figures

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Pearson's and Spearman's correlation of the two models' outputs."""
        pairs = [
            (self._scores(one).squeeze(1), self._scores(other).squeeze(1))
            for one, other, _ in zip(teacher, student, batches, strict=True)
        ]
        return correlations(torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs]))


def _rankings(samples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The indices of the samples of each query that has relevant documents and others; empty where none has."""
    queries: dict[Any, list[int]] = {}
    for index, sample in enumerate(samples):
        if "query" in sample:
            queries.setdefault(sample["query"], []).append(index)
    relevant = {query: [samples[index]["labels"] > 0 for index in rows] for query, rows in queries.items()}
    return [rows for query, rows in queries.items() if any(relevant[query]) and not all(relevant[query])]


def correlations(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two tensors [samples]; NaN if one of them is constant."""
    from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef  # imported here: takes seconds

    return {
        "pearson": float(pearson_corrcoef(predicted, labels)),
        "spearman": float(spearman_corrcoef(predicted, labels)),
    }
