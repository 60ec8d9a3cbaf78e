"""The built-in tasks for text, images and speech: classification, regression, question answering, generation, embeddings."""

from __future__ import annotations

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.data import Task
from fastprune_tasks.audio_classification import AudioClassification
from fastprune_tasks.audio_embedding import AudioEmbedding
from fastprune_tasks.causal_lm import CausalLM
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.conditional_generation import ConditionalGeneration
from fastprune_tasks.ctc import CTC
from fastprune_tasks.embedding import Embedding
from fastprune_tasks.image_classification import ImageClassification
from fastprune_tasks.image_embedding import ImageEmbedding
from fastprune_tasks.image_text_embedding import ImageTextEmbedding
from fastprune_tasks.masked_lm import MaskedLM
from fastprune_tasks.question_answering import QuestionAnswering
from fastprune_tasks.regression import Regression
from fastprune_tasks.speech_to_text import SpeechToText
from fastprune_tasks.token_classification import TokenClassification


@hookimpl
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    """Register all built-in tasks."""
    for task in (
        SequenceClassification,
        Regression,
        TokenClassification,
        QuestionAnswering,
        MaskedLM,
        CausalLM,
        ConditionalGeneration,
        Embedding,
        ImageClassification,
        AudioClassification,
        SpeechToText,
        CTC,
        ImageEmbedding,
        AudioEmbedding,
        ImageTextEmbedding,
    ):
        register(task)
