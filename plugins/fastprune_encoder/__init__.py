"""Encoder families for text, proteins, tables and documents."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.units import Architecture
from fastprune_encoder.albert import ALBERT
from fastprune_encoder.bert import BERT, LONGFORMER
from fastprune_encoder.deberta import DEBERTA
from fastprune_encoder.distilbert import DISTILBERT
from fastprune_encoder.esm import ESM, MEGATRON, PRE_LAYER_NORM
from fastprune_encoder.gte import EUROBERT, GTE, JINA
from fastprune_encoder.modernbert import MODERNBERT
from fastprune_encoder.mpnet import MPNET
from fastprune_encoder.xlm import FLAUBERT, XLM

LIKE_BERT = (BERT, DISTILBERT, MPNET, ALBERT, LONGFORMER)
PRE_NORM = (ESM, MEGATRON, PRE_LAYER_NORM)
ROTARY = (GTE, JINA, EUROBERT, MODERNBERT)
OTHERS = (DEBERTA, XLM, FLAUBERT)


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (*LIKE_BERT, *PRE_NORM, *ROTARY, *OTHERS):
        register(architecture)
