"""Encoder families: BERT and its kin, DistilBERT, MPNet, ModernBERT, ESM, DeBERTa, GTE, ALBERT."""

from collections.abc import Callable

from fastprune import Architecture, hookimpl
from fastprune_encoder.albert import ALBERT
from fastprune_encoder.bert import BERT
from fastprune_encoder.deberta import DEBERTA
from fastprune_encoder.distilbert import DISTILBERT
from fastprune_encoder.esm import ESM
from fastprune_encoder.gte import GTE
from fastprune_encoder.modernbert import MODERNBERT
from fastprune_encoder.mpnet import MPNET


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (BERT, DISTILBERT, MPNET, MODERNBERT, ESM, DEBERTA, GTE, ALBERT):
        register(architecture)
