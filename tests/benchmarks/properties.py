"""Random tiny models, pruned by random recipes to random budgets, saved, loaded and counted: does anything break its promise?

    python tests/benchmarks/properties.py --seeds 0:500 --output properties.jsonl   # resumes where it stopped
    python tests/benchmarks/properties.py --seeds 17                                # one case again

A seed decides everything: the family and its head, sizes, preset and stages, costs and budgets. Checked of each case:

* every budget is kept by the finished model: parameters counted by ``numel``, multiply-accumulates by torch's
  ``FlopCounterMode``, and what ``prune`` reports is what is counted;
* the pruned model without tuning equals the masked dense model;
* the saved model loads with the same weights, and gives bit-equal outputs.

A failure is printed with the command that repeats it, and the script ends with exit code 1.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fastprune
from fastprune import Batches, Recipe, testing
from fastprune.calibration import frozen
from fastprune.data import Workload
from fastprune.errors import BudgetError
from fastprune.models import checkpoint
from fastprune.registry import loading
from fastprune.surgery.masking import masked
from fastprune.testing.comparing import all_outputs, largest_difference, same_tensors
from fastprune.units import resolve_groups
from fastprune.units.experts import dense_routing, unfuse_experts

HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForCausalLM",
    "ForConditionalGeneration",
    "ForSpeechSeq2Seq",
    "ForImageClassification",
    "ForAudioClassification",
    "ForCTC",
    "ForZeroShotImageClassification",
    "Model",
)
EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
DEEPSEEK = {"num_key_value_heads": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
SIZES: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": [4, 4], "max_position_embeddings": 80},
    "jina_embeddings_v3": {"head_dim": 8},
    "deepseek_v2": EXPERTS | DEEPSEEK | {"q_lora_rank": None},
    "deepseek_v3": EXPERTS | DEEPSEEK | {"q_lora_rank": 4},
    "dots1": EXPERTS | {"head_dim": 8},
    "glm4_moe": EXPERTS | {"head_dim": 8},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "ministral3": {"head_dim": 8},
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_attention_heads": [2, 4], "window_size": 2, "patch_size": 2},
    # a norm behind the consumer makes the rounding of a small output large; a greater eps makes it less so
    **{name: {"head_dim": 8, "rms_norm_eps": 1e-2} for name in ("gemma2", "exaone4", "glm4")},
    **{name: {"rms_norm_eps": 1e-2} for name in ("olmo2", "olmo3")},
}
"""Settings without which a family has no tiny model."""
LEFT_OUT = {("whisper", "ForCausalLM"), ("whisper", "Model"), ("longformer", "ForQuestionAnswering")}
LEFT_OUT |= {(m, "ForSequenceClassification") for m in ("bart", "mbart", "plbart", "t5", "mt5")}
"""Heads that random tokens do not serve (they look for end or separator tokens), and those without a task."""
VARIATIONS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"intermediate_size": 40},
    {"num_hidden_layers": 3},
    {"hidden_size": 64},
)
RECIPES: tuple[tuple[str, dict[str, str], dict[str, dict[str, Any]]], ...] = (
    ("paper", {}, {}),
    ("paper", {"schedule": "rounds"}, {"schedule": {"steps": 3}}),
    ("paper", {"searcher": "threshold", "tuner": "bias"}, {}),
    ("paper", {"scorer": "magnitude", "searcher": "uniform", "rearranger": "none", "tuner": "none"}, {}),
    ("fast", {}, {}),
    ("fast", {"schedule": "rounds"}, {}),
    ("fast", {"scorer": "fluctuation", "tuner": "bias"}, {}),
    ("kprune", {}, {}),
    ("kprune", {"searcher": "knapsack"}, {}),
    ("default", {"tuner": "weights"}, {}),
    ("default", {}, {"tuner": {"fill": 0}}),
    ("default", {"schedule": "rounds", "tuner": "weights"}, {"searcher": {"tries": 2}}),
)
"""Preset, stages replaced, and options."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a seed stands for."""

    seed: int
    model_type: str
    head: str
    config: dict[str, Any]
    recipe: int
    costs: tuple[str, ...]
    levels: tuple[float, ...]  # how far above the floor each budget is, 0 to 1
    amount: bool  # whether budgets are amounts
    reroute: bool
    length: int
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        preset, stages, _ = RECIPES[self.recipe]
        return " ".join([self.model_type, self.head, preset, *map("=".join, stages.items()), *self.costs])


def case_of(seed: int) -> Case:
    """The case of a seed. Consecutive seeds take the model types in turn."""
    draw, registry = random.Random(seed), loading.installed().architecture
    claimed = {model_type for name in registry for model_type in registry[name].model_types} - {"siglip_text_model"}
    model_types = sorted(claimed)  # the last has no Auto class
    model_type = model_types[seed % len(model_types)]
    config = SIZES.get(model_type, {})
    if not config:
        config = {
            n: v for n, v in draw.choice(VARIATIONS).items() if n in dir(transformers.CONFIG_MAPPING[model_type]())
        }
    heads = [head for head in HEADS if _has(model_type, head)]
    costs = draw.choice([("macs",), ("params",), ("macs",), ("params",), ("macs", "params"), ("params", "macs")])
    return Case(
        seed=seed,
        model_type=model_type,
        head=draw.choice(heads),
        config=config,
        recipe=draw.randrange(len(RECIPES)),
        costs=costs,
        levels=tuple(draw.choice([1.0, 0.95, 0.8, 0.6, 0.4, 0.25, 0.1, 0.03]) for _ in costs),
        amount=draw.random() < 0.2,
        reroute=draw.random() < 0.5,
        length=draw.choice([5, 9, 17]),
    )


def _has(model_type: str, head: str) -> bool:
    """Whether transformers has this head for the model type; not the decoders alone of models that also have an encoder."""
    if (model_type, head) in LEFT_OUT or (head == "ForCausalLM" and _has(model_type, "ForConditionalGeneration")):
        return False
    suffixes = {"Model": "", "ForConditionalGeneration": "ForSeq2SeqLM"}
    factory = getattr(transformers, "AutoModel" + suffixes.get(head, head))
    return transformers.CONFIG_MAPPING[model_type] in factory._model_mapping


def check(case: Case) -> list[str]:
    """Prune, save, load and count; returns the broken promises."""
    model = testing.tiny_model(case.model_type, case.head, **case.config)
    batches = testing.tiny_batches(model, samples=16, length=case.length, seed=case.seed)
    dense = unfuse_experts(model)
    architecture = fastprune.architecture_for(model)
    before = counts_of(dense, batches)
    budget = {
        name: budget_of(case, dense, batches, name, level) for name, level in zip(case.costs, case.levels, strict=True)
    }
    try:
        result = pruned(case, model, batches, budget)
    except BudgetError as error:
        return [] if "cannot be met" in str(error) and min(case.levels) < 0.25 else [f"refused: {error}"]
    problems, after = [], counts_of(result.model, batches)
    for each in result.costs:
        name = each["name"]
        share, asked = after[name] / before[name], each["budget"]
        if share > asked * (1 + 1e-9):
            problems.append(f"{share:.4f} of the {name} are left, the budget was {asked:.4f}")
        if abs(each["after"] - after[name]) > 1e-6 * before[name]:
            problems.append(f"{name}: {each['after']:.0f} reported, {after[name]:.0f} counted")
    groups = resolve_groups(architecture, dense)
    smaller = fastprune.materialize(dense, groups, result.mask)
    with frozen(dense), frozen(smaller), torch.no_grad():
        with masked(dense, groups, result.mask):
            expected = all_outputs(dense, batches)
        difference = largest_difference(expected, all_outputs(smaller, batches))
    if not difference < 1e-3:
        problems.append(f"the masked and the materialised model differ by {difference:.3g}")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "small"  # without the report, whose pictures take longer than all else
        checkpoint.save(result.model, path, architecture=result.architecture, details=result.details())
        again = fastprune.load(path)
        if not same_tensors(result.model.state_dict(), again.state_dict()):
            problems.append("the loaded weights differ from the saved ones")
        ones, others = all_outputs(result.model, batches), all_outputs(again, batches)
        if not all(torch.equal(one, other) for one, other in zip(ones, others, strict=True)):
            problems.append("the loaded model's outputs differ")
    return problems


def pruned(case: Case, model: nn.Module, batches: Batches, budget: dict[str, Any]) -> fastprune.PruningResult:
    """The case's pruning; with the searcher for any table where the paper's cannot take the model's unit costs."""
    preset, stages, settings = RECIPES[case.recipe]
    experts = any(group.router for group in resolve_groups(fastprune.architecture_for(model), unfuse_experts(model)))
    for searcher in ({}, {"searcher": "knapsack"}):
        recipe = Recipe.of(preset, settings=settings, **{**stages, "cost": case.costs[0], **searcher})
        try:
            return fastprune.prune(
                model,
                batches,
                budget=budget,
                recipe=recipe,
                seed=case.seed,
                reroute=case.reroute and experts,
                bench=False,
                progress=False,
            )
        except fastprune.UsageError as error:
            if "searcher 'exact'" not in str(error) or searcher:
                raise
    raise AssertionError


def budget_of(case: Case, model: nn.Module, batches: Batches, name: str, level: float) -> float | str:
    """A budget between what is left with every unit pruned and the whole, as a share or an amount."""
    groups = resolve_groups(fastprune.architecture_for(model), model)
    table = fastprune.strategy("cost", name).measure(model, groups, Workload.of(batches))
    wanted = table.floor + level * (table.total - table.floor)
    return f"{wanted:.6f}{table.measure}" if case.amount else min(1.0, wanted / table.total)


def counts_of(model: nn.Module, batches: Batches) -> dict[str, float]:
    """Parameters, and multiply-accumulates of one sample of mean length; experts see the tokens that an even routing gives them."""
    inputs, counter = Workload.of(batches).inputs(), FlopCounterMode(display=False)
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), dense_routing(model) as shares, counter:
        model(**inputs)
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    total = float(counter.get_total_flops())
    for path, share in shares.items():
        total -= (1 - share) * flops.get(f"{type(model).__name__}.{path}", 0)
    return {"macs": total / 2, "params": float(sum(parameter.numel() for parameter in model.parameters()))}


def seeds_of(text: str) -> Iterator[int]:
    first, colon, end = text.partition(":")
    return iter(range(int(first), int(end) if colon else int(first) + 1))


@click.command()
@click.option("--seeds", default="0:500", show_default=True, help="One seed, or a range FIRST:END.")
@click.option(
    "--output", type=click.Path(dir_okay=False), help="JSONL, one line a case; cases in it are not run again."
)
def main(seeds: str, output: str | None) -> None:
    """Run the cases, and say which failed."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    file = Path(output) if output else None
    known = {json.loads(line)["seed"] for line in file.read_text().splitlines()} if file and file.is_file() else set()
    failed = 0
    for seed in seeds_of(seeds):
        if seed in known:
            continue
        case, start = case_of(seed), time.perf_counter()
        try:
            problems = check(case)
        except Exception as error:  # whatever it is, it is the finding
            problems = ["".join(traceback.format_exception_only(error)).strip(), traceback.format_exc(limit=-4)]
        seconds = time.perf_counter() - start
        failed += bool(problems)
        if problems:
            click.echo(f"FAILED python {__file__} --seeds {seed}   # {case}\n  " + "\n  ".join(problems))
        if file:
            with file.open("a", encoding="utf-8") as lines:
                row = {"seed": seed, "case": str(case), "seconds": round(seconds, 2), "problems": problems}
                lines.write(json.dumps(row) + "\n")
    click.echo(f"{failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
