"""DeBERTa v2 and v3: like BERT, plus two linears for relative positions unless these share the query and key weights."""

from dataclasses import replace

from fastprune.units import Architecture, Producer
from fastprune_encoder.bert import ATTENTION, FFN, LAYERS

PRODUCERS = (
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    Producer(linear="attention.self.pos_key_proj", optional=True),
    Producer(linear="attention.self.pos_query_proj", optional=True),
)

DEBERTA = Architecture(
    name="deberta-v2",
    model_types=("deberta-v2",),
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, producers=PRODUCERS), FFN)),),
)
