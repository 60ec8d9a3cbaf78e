"""Text embeddings: one vector per text, compared by cosine similarity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column, text_columns, token_mask
from fastprune.errors import DataError
from fastprune_tasks.boxes import has_words, reads_boxes, tell_no_boxes
from fastprune_tasks.labels import SCORES, numbers, read_labels
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.pooling import Pooling, pooled
from fastprune_tasks.ranking import ALONE, RANKED, ranked_texts, ranking_metrics, roles
from fastprune_tasks.regression import correlations
from fastprune_tasks.similarity import pair_similarities, similarities
from fastprune_tasks.texts import PAIRS, SINGLES, TOKENS, encode_texts, texts_of, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SENSES = ("vision_config", "image_size", "conv_kernel", "num_mel_bins")
"""Settings of configurations for image, waveform and spectrogram inputs."""
PROJECTED = ("text_embeds", "image_embeds")
"""Outputs of models that compute the embedding themselves; for other models, hidden states are pooled."""
MISSING = (
    "Metrics of embeddings need pairs of texts with scores, or queries with relevant documents; name two text columns and a label "
    "column."
)
COMPARED = 1_000
"""Maximum number of samples whose pairs are compared; the number of pairs grows with its square."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Task):
    """One vector per text, pooled from the last hidden states of an encoder without a head.

    The attributes are the settings of sentence-transformers; ``embed`` gives the vectors of its ``encode``.

    Attributes:
        pooling: Pooling over the tokens without padding (``pooled``); of several poolings the vectors are concatenated.
        include_prompt: Pool over the tokens of the prompt, too.
        dense: Modules that the pooled vectors pass through, in order.
        normalize: Scale the vectors to length 1.
        truncate_dim: Number of entries of a vector that are kept; None: all.
        similarity: Similarity of two vectors: cosine, dot product, or the negative Euclidean or Manhattan distance.
        prompt: Text in front of each text.
        query_prompt: Text in front of each text in a column of queries (``roles``).
        document_prompt: Text in front of each text in a column of documents.
        boxes: The model reads the place of each word on the page; words with boxes are preferred to texts.
    """

    name: ClassVar[str] = "embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model", "TextModelWithProjection")
    input_names: ClassVar[tuple[str, ...]] = ("bbox",)
    note_names: ClassVar[tuple[str, ...]] = ("prompt_tokens",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*RANKED, *PAIRS, *SINGLES, *ALONE)
    usual_labels: ClassVar[tuple[str, ...]] = SCORES
    label_form: ClassVar[str] = "number"

    pooling: Pooling | tuple[Pooling, ...] = "mean"
    include_prompt: bool = True
    dense: tuple[nn.Module, ...] = ()
    normalize: bool = True
    truncate_dim: int | None = None
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = "cosine"
    prompt: str = ""
    query_prompt: str = ""
    document_prompt: str = ""
    boxes: bool = False

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Text encoders without a head; names such as ``GPT2LMHeadModel`` also end in ``Model`` but have one."""
        texts = not any(hasattr(config, name) for name in SENSES)
        return super().serves(config, class_name) and texts and not class_name.endswith(("HeadModel", "HeadsModel"))

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read whether the model reads boxes; a configuration does not contain a pooling."""
        return cls(boxes=reads_boxes(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode each text of a row as a separate sample, behind its prompt.

        Of two columns the samples have ``row``, ``side`` and, if the data has one, ``score``. Of columns of queries and documents
        each text is encoded once, and each query's sample has ``relevance``: the relevance of its documents by their ``document``.
        """
        if self.boxes and has_words(data, columns, TOKENS):
            samples = encode_texts(data, tokenizer, columns=columns, max_length=max_length, boxes=True)
            prompt = {} if self.include_prompt else {"prompt_tokens": 0}
            return [sample | {"row": row, "side": 0} | prompt for row, sample in enumerate(samples)]
        if self.boxes:
            tell_no_boxes()
        names = text_columns(data, columns, self.usual_inputs)
        held = roles(names)
        column = label_column(data, columns, self.usual_labels) if len(names) > 1 else None
        labels = read_labels(data, column)
        scores = None if labels is None else numbers(str(column), labels)
        if "query" in held and len(names) > 1:
            texts, notes = ranked_texts(data, names, scores)
        else:
            texts = [(role, text) for role, name in zip(held, names, strict=True) for text in texts_of(data, name)]
            notes = [{"row": row, "side": side} for side in range(len(names)) for row in range(len(data))]
            if scores is not None and len(names) == 2:
                notes = [note | {"score": scores[note["row"]]} for note in notes]
        prompts = {"": self.prompt, "query": self.query_prompt, "document": self.document_prompt}
        samples = tokenized(tokenizer, [[prompts[role] + text for role, text in texts]], max_length)
        lengths = {role: _prompt_length(prompt, tokenizer) for role, prompt in prompts.items()}
        for sample, note, (role, _) in zip(samples, notes, texts, strict=True):
            sample |= note if self.include_prompt else note | {"prompt_tokens": lengths[role]}
        return samples

    def embed(self, outputs: Any, batch: Batch) -> Tensor:
        """The vectors of a batch, [samples, hidden]; differentiable."""
        projected = next((value for name in PROJECTED if (value := getattr(outputs, name, None)) is not None), None)
        vectors = full_precision(projected) if projected is not None else self._pooled(outputs, batch)
        for layer in self.dense:
            vectors = layer.to(vectors)(vectors)
        if self.normalize:
            vectors = F.normalize(vectors, dim=1)
        return vectors if self.truncate_dim is None else vectors[:, : self.truncate_dim]

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """Mask of the last hidden states to pool over: [samples, tokens], bool."""
        return token_mask(batch)

    def _pooled(self, outputs: Any, batch: Batch) -> Tensor:
        """Pool the last hidden states of each sample: [samples, hidden]."""
        states = full_precision(outputs.last_hidden_state)  # [samples, tokens, hidden]
        mask, chosen = self.real(outputs, batch), self.pooling
        each = (chosen,) if isinstance(chosen, str) else chosen
        return torch.cat([pooled(states, mask, pooling, batch.get("prompt_tokens")) for pooling in each], dim=1)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared distance to the vectors in ``labels``, [samples]."""
        return gaussian_loss(self.embed(outputs, batch), batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The vectors plus unit Gaussian noise, [samples, hidden]."""
        return {"labels": draw_gaussian(self.embed(outputs, batch), generator)}

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What the metrics need: pairs with scores, or queries with relevant documents."""
        scored = bool(samples) and all("score" in sample for sample in samples)
        ranked = any(grade > 0 for sample in samples for grade in sample.get("relevance", {}).values())
        return "" if scored or ranked else MISSING

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Correlation of the pairs' similarities with their scores (Pearson, Spearman), and the metrics of a ranking.

        With queries, every document of the data is ranked for each of them: nDCG@10, MRR@10 and recall@10. Scores that are all
        equal have no correlation.
        """
        if self.missing(samples):
            raise DataError(self.missing(samples))
        order, vectors = [], []
        for outputs, batch in results:
            order.append(batch["sample"])
            vectors.append(self.embed(outputs, batch))
        embedded = torch.cat(vectors)[torch.cat(order).argsort()]  # [samples, hidden], in the order of samples
        metrics = ranking_metrics(self._rankings(embedded, samples)) if "score" not in samples[0] else {}
        pairs = list(_scored_pairs(samples))
        scores = torch.tensor([score for _, _, score in pairs]).to(embedded)  # [pairs]
        if metrics and len(set(scores.tolist())) < 2:
            return metrics
        left, right = (embedded[[pair[side] for pair in pairs]] for side in (0, 1))  # [pairs, hidden]
        return metrics | correlations(pair_similarities(left, right, self.similarity), scores)

    def _rankings(self, vectors: Tensor, samples: Sequence[Sample]) -> Iterator[tuple[Tensor, Tensor]]:
        """The similarities of all documents and their relevance, both [documents], query by query."""
        places = {sample["document"]: index for index, sample in enumerate(samples) if "document" in sample}
        documents = vectors[list(places.values())]  # [documents, hidden]
        ranks = {document: rank for rank, document in enumerate(places)}
        for index, sample in enumerate(samples):
            if "relevance" in sample:
                relevance = torch.zeros(len(documents))
                for document, grade in sample["relevance"].items():
                    relevance[ranks[document]] = grade
                scores = similarities(vectors[index : index + 1], documents, self.similarity)[0]
                yield scores.cpu(), relevance

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Mean cosine of the two models' vectors, and Spearman's correlation of their similarities of all pairs of texts.

        At most 1,000 texts are paired.
        """
        from torchmetrics.functional.regression import spearman_corrcoef  # imported here because it takes seconds

        one, other = [], []
        for left, right, batch in zip(teacher, student, batches, strict=True):
            one.append(self.embed(left, batch))
            other.append(self.embed(right, batch))
        ones, others = torch.cat(one), torch.cat(other)  # [samples, hidden]
        return {
            "cosine": float(F.cosine_similarity(ones, others).mean()),
            "spearman": float(spearman_corrcoef(*(_similarities(each, self.similarity) for each in (ones, others)))),
        }


def _similarities(vectors: Tensor, kind: str) -> Tensor:
    """Similarities of all pairs of at most 1,000 samples: [samples, hidden] -> [pairs]."""
    # batches are sorted by length; evenly spaced samples compare short texts with long ones
    chosen = torch.linspace(0, len(vectors) - 1, min(COMPARED, len(vectors))).long()
    table = similarities(vectors[chosen], vectors[chosen], kind)  # [samples, samples]
    rows, columns = torch.triu_indices(len(table), len(table), offset=1)
    return table[rows, columns]


def _scored_pairs(samples: Sequence[Sample]) -> Iterator[tuple[int, int, float]]:
    """The pairs of samples with a score: the indices of both, and the score."""
    places = {sample["document"]: index for index, sample in enumerate(samples) if "document" in sample}
    rights = {sample["row"]: index for index, sample in enumerate(samples) if sample.get("side") == 1}
    for index, sample in enumerate(samples):
        if sample.get("side") == 0:
            yield index, rights[sample["row"]], sample["score"]
        for document, score in sample.get("scores", ()):
            yield index, places[document], score


def _prompt_length(prompt: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of a prompt, with special tokens in front of it and without one behind it."""
    if not prompt:
        return 0
    ids = tokenizer([prompt])["input_ids"][0]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)
