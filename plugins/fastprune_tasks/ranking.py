"""Ranking: queries and documents in data, and the metrics of their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastprune_tasks.texts import text_of

if TYPE_CHECKING:
    from datasets import Dataset

TOP = 10
"""Number of documents in the figures of a ranking."""
QUERIES = ("query", "anchor", "question")
DOCUMENTS = ("document", "passage", "positive", "negative", "answer", "context", "corpus")
RANKED = (
    ("query", "positive", "negative"),
    ("anchor", "positive", "negative"),
    ("query", "positive"),
    ("query", "passage"),
    ("query", "document"),
)
"""Usual names of columns of queries and documents."""
ALONE = (("query",), ("passage",))
"""Usual names of a single column of queries or documents, besides those of any text."""
IDENTIFIERS = {"query": ("query_id", "query-id", "qid"), "document": ("document_id", "corpus_id", "corpus-id", "pid")}


def roles(names: Sequence[str]) -> tuple[str, ...]:
    """What each column holds by its name: ``query`` or ``document``; all empty where the names do not say.

    A single column is one of the two by the names ``query`` and ``document`` or ``passage`` alone; of several columns one must hold
    queries, and the others documents.
    """
    found = tuple(_role(name) for name in names)
    if len(names) == 1:
        return found if names[0].casefold() in ("query", "document", "passage") else ("",)
    ranks = found[0] == "query" and set(found[1:]) == {"document"}
    return found if ranks else ("",) * len(names)


def _role(name: str) -> str:
    word = name.casefold().rstrip("0123456789_")
    return "query" if word in QUERIES else "document" if word in DOCUMENTS else ""


def ranked_texts(
    data: Dataset, names: Sequence[str], labels: Sequence[float] | None
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """The distinct queries and documents of columns of both, with the relevance of the documents.

    Args:
        data: The rows; a query or a document may be missing from a row (None).
        names: A column of queries and columns of documents.
        labels: The scores of the rows' pairs, relevant from above 0; None: 1, and 0 in columns of negatives.

    Returns:
        For each text its role (``roles``) and the text; and what its sample holds: a query's ``relevance`` by document, and
        ``scores``, pairs of document and label, if there are labels; or the ``document``, its identifier (IDENTIFIERS) or its text.
    """
    queries, documents = Found("query"), Found("document")
    asked = queries.read(data, names[0])
    for name in names[1:]:
        answered = documents.read(data, name)
        for row, (query, document) in enumerate(zip(asked, answered, strict=True)):
            if query is None or document is None:
                continue
            grade = float(not _is_negative(name))
            if labels is not None and len(names) == 2:
                grade = labels[row]
                queries.samples[query].setdefault("scores", []).append((document, grade))
            known = queries.samples[query]["relevance"]
            known[document] = max(grade, known.get(document, 0.0))
    found = (queries, documents)
    texts = [(each.role, text) for each in found for text in each.texts.values()]
    return texts, [sample for each in found for sample in each.samples.values()]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A query and one of its documents.

    Attributes:
        key: What tells the query apart.
        query: The query's text.
        document: The document's text.
        relevance: The relevance of the document; None: unknown.
    """

    key: Any
    query: str
    document: str
    relevance: float | None


def judged_pairs(data: Dataset, names: Sequence[str], labels: Sequence[float] | None) -> list[Judged]:
    """Each query with each of its documents, without rows that lack one.

    Args:
        data: The rows.
        names: A column of queries and columns of documents.
        labels: The relevance of the rows' documents; None: unknown, or where there are negatives 0 for them and 1 for others.
    """
    first, *rest = names
    negatives = any(_is_negative(name) for name in rest)
    columns = {name: identified(data, name, "document")[1] for name in rest}
    pairs = []
    for row, (key, query) in enumerate(zip(*identified(data, first, "query"), strict=True)):
        for name in rest:
            relevance = float(not _is_negative(name)) if negatives else None
            if labels is not None and len(rest) == 1:
                relevance = labels[row]
            document = columns[name][row]
            if query is not None and document is not None:
                pairs.append(Judged(key=key, query=query, document=document, relevance=relevance))
    return pairs


class Found:
    """The distinct queries or documents of a data set, by their identifiers.

    Attributes:
        role: ``query`` or ``document``.
        texts: The texts, by identifier.
        samples: What the samples hold, by identifier.
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self.texts: dict[Any, str] = {}
        self.samples: dict[Any, dict[str, Any]] = {}

    def read(self, data: Dataset, name: str) -> list[Any]:
        """Add the texts of a column; returns their identifiers, one per row, None where there is no text."""
        keys, texts = identified(data, name, self.role)
        for key, text in zip(keys, texts, strict=True):
            if text is not None and key not in self.texts:
                self.texts[key] = text
                self.samples[key] = {"relevance": {}} if self.role == "query" else {"document": key}
        return keys


def identified(data: Dataset, name: str, role: str) -> tuple[list[Any], list[str | None]]:
    """What tells the texts of a column apart (identifiers, else the texts), and the texts; None where there is none."""
    texts = [text_of(row, value, name) for row, value in enumerate(data[name])]
    column = next((each for each in IDENTIFIERS[role] if each in data.column_names), None)
    keys = texts if column is None else list(data[column])
    return [None if text is None else key for key, text in zip(keys, texts, strict=True)], texts


def _is_negative(name: str) -> bool:
    return name.casefold().startswith("negative")


def ranking_metrics(queries: Iterable[tuple[Tensor, Tensor]], *, recall: bool = True) -> dict[str, float]:
    """Mean nDCG@10, MRR@10 and recall@10 over the queries with a relevant document.

    Documents that are not judged count as not relevant. The gain of nDCG is the relevance itself, as in trec_eval.

    Args:
        queries: For each query the scores of its documents and their relevance, both [documents].
        recall: Whether recall is among the figures; it tells nothing where a query has ten documents or fewer.
    """
    from torchmetrics.functional import retrieval  # imported here because it takes seconds

    totals = {f"ndcg@{TOP}": 0.0, f"mrr@{TOP}": 0.0} | ({f"recall@{TOP}": 0.0} if recall else {})
    count = 0
    for scores, relevance in queries:
        scores = (
            scores.double() - scores.double().min() + 1
        )  # torchmetrics takes a score of 0 or less for "not retrieved"
        relevance = relevance.clamp(min=0)
        relevant = relevance > 0
        if not bool(relevant.any()):
            continue
        count += 1
        totals[f"ndcg@{TOP}"] += float(retrieval.retrieval_normalized_dcg(scores, relevance, top_k=TOP))
        totals[f"mrr@{TOP}"] += float(retrieval.retrieval_reciprocal_rank(scores, relevant, top_k=TOP))
        if recall:
            totals[f"recall@{TOP}"] += float(retrieval.retrieval_recall(scores, relevant, top_k=TOP))
    return {name: total / count for name, total in totals.items()}
