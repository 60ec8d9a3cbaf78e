"""The conformance suite: what every strategy, task and architecture must do, for the authors of plugins to run.

Each check raises an AssertionError with a sentence that says what is wrong. ``check_plugin`` runs the fitting ones on
everything that a plugin registers:

    def test_conformance():
        fastprune.testing.check_plugin(my_plugin)
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fastprune import checkpoint, contracts, plugins
from fastprune.architecture import Architecture, Block
from fastprune.calibration import NO_LABEL, Batches, model_inputs, token_mask
from fastprune.capture import frozen
from fastprune.costs import CostTable, Workload
from fastprune.errors import ContractError, FastpruneError, UsageError
from fastprune.gradients import collect_gradients, unit_gradients
from fastprune.groups import Group, Groups, consumer_of
from fastprune.layerwise import Statistics, reconstruct, whole_statistics
from fastprune.masks import Mask
from fastprune.materialize import masked, materialize, reconstruct_consumers
from fastprune.options import build as built
from fastprune.options import options_of
from fastprune.recipe import Recipe
from fastprune.scores import Scores
from fastprune.strategies import CostModel, Rearranger, Schedule, Scorer, Searcher, Strategy, Tuner
from fastprune.tasks import Task

OPTIONAL_SCORES = frozenset({"grads", "token_weights", "damage"})


def tiny_model(
    model_type: str = "bert", head: str = "ForSequenceClassification", **config: Any
) -> transformers.PreTrainedModel:
    """A random transformers model of two layers, 32 hidden units, 4 heads and 64 filters, in eval mode.

    The same arguments give the same weights. No bias is zero, so that losing one shows.

    Args:
        model_type: As in ``config.model_type``; the family is known to transformers' AutoConfig and Auto classes.
        head: The ending of an Auto class, such as ``ForTokenClassification``; ``Model`` for none.
        config: Other values of the configuration, such as ``num_labels=1``.
    """
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"num_key_value_heads": 2, "n_positions": 64, "ffn_dim": 64}
    sizes |= {"hidden_dim": 64, "vocab_size": 64, "max_position_embeddings": 64, "embedding_size": 16, "num_labels": 2}
    sizes |= {"image_size": 16, "patch_size": 4}
    settings: dict[str, Any] = {**sizes, "initializer_range": 0.2, **config}
    described = transformers.AutoConfig.for_model(model_type, **settings)
    factory = getattr(transformers, "AutoModel" + ("" if head == "Model" else head))
    classes = factory._model_mapping.get(type(described), ())
    if isinstance(classes, tuple) and classes:  # several heads of one kind: the plain one
        described.architectures = [classes[0].__name__]
    return random_weights(factory.from_config, described)


def random_weights(build: Callable[[Any], Any], config: Any) -> transformers.PreTrainedModel:
    """A transformers model with random weights in eval mode, the same for the same configuration. No bias is zero.

    Args:
        build: Makes the model of a configuration; its class will do.
        config: Special tokens that it does not have, or has beyond its vocabulary, are set.
    """
    for place, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        known = getattr(config, name, None)
        if known is None or isinstance(known, list) or known >= getattr(config, "vocab_size", 0):
            setattr(config, name, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(config)
        with torch.no_grad():
            for vector in (parameter for parameter in model.parameters() if parameter.dim() == 1):
                vector.add_(0.1 * torch.randn_like(vector))
    model.eval()
    assert isinstance(model, transformers.PreTrainedModel)
    return model


def tiny_batches(
    model: nn.Module, *, samples: int = 24, batch_size: int = 8, length: int = 9, labels: bool = True, seed: int = 0
) -> Batches:
    """Random batches for a tiny model, texts padded on the right or pictures, with the task that serves the model.

    Args:
        model: A transformers model with ``vocab_size`` or ``image_size`` in its configuration.
        samples: How many.
        batch_size: Samples a batch.
        length: Tokens of the longest sample; the shortest has 3.
        labels: Whether there are labels; they are drawn from the model's own predictions.
        seed: Of the tokens and the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    task = plugins.task_for(config, type(model))
    pad = _pad_token(model)
    batches = []
    for start in range(0, samples, batch_size):
        size = min(batch_size, samples - start)
        if getattr(model, "main_input_name", "") == "pixel_values":
            shape = (size, config.num_channels, config.image_size, config.image_size)
            batch = {"pixel_values": torch.randn(shape, generator=generator)}
        else:
            lengths = torch.randint(3, length + 1, (size,), generator=generator)
            lengths[0] = length
            real = torch.arange(length) < lengths[:, None]  # [samples, tokens]
            ids = torch.randint(pad + 1, config.vocab_size, real.shape, generator=generator)
            batch = {"input_ids": torch.where(real, ids, pad), "attention_mask": real.long()}
        if "decoder_input_ids" in inspect.signature(model.forward).parameters:
            others = torch.randint(pad + 1, config.vocab_size, real.shape, generator=generator)
            batch |= {"decoder_input_ids": torch.where(real, others, pad), "decoder_attention_mask": real.long()}
        if labels:
            with frozen(model), torch.no_grad():
                batch |= task.draw_labels(model(**batch), batch, generator)
        batches.append(batch)
    return Batches.wrap(batches, task)


def check_plugin(module: Any, *, models: Iterable[nn.Module] = (), cost_tolerance: float = 1e-9) -> None:
    """Register a plugin alone, as installing it would, and run the fitting check on everything that it registers.

    Strategies are checked with their default options. Presets are checked only where the plugin is installed.

    Args:
        module: The plugin: the module, or the object, that its entry point names.
        models: Tiny models for architectures and tasks; ``tiny_model`` makes those that are not given.
        cost_tolerance: As ``tolerance`` of ``check_cost_model``, for cost models that measure rather than count.
    """
    name = getattr(module, "__name__", type(module).__name__)
    registered = _register_alone(name, module)
    found = 0
    for kind in plugins.KINDS:
        for strategy in (registered.strategies(kind)[name] for name in registered.strategies(kind)):
            assert all(info.default is not dataclasses.MISSING for info in options_of(strategy)), (
                f"An option of {kind} '{strategy.name}' has no default, so that its name alone does not choose it."
            )
            check_strategy(strategy(), cost_tolerance=cost_tolerance)
            found += 1
    given = list(models)
    for architecture in (registered.architecture[name] for name in registered.architecture):
        found += 1
        for model_type in architecture.model_types:
            fitting = [model for model in given if getattr(model.config, "model_type", None) == model_type]
            for model in fitting or [tiny_model(model_type)]:
                check_architecture(architecture, model)
    for task in (registered.task[name] for name in registered.task):
        found += 1
        fitting = [model for model in given if task.serves(model.config, type(model).__name__)]  # type: ignore[arg-type]
        for served in fitting or [_model_for(task)]:
            check_task(task, model=served)
    for preset in registered.preset:
        found += 1
        if preset in plugins.installed().preset:
            check_preset(preset)
    commands = hasattr(module, "register_commands")
    assert found or commands, f"The plugin '{name}' registers nothing; are its functions marked with hookimpl?"


def check_preset(preset: str) -> None:
    """A registered preset makes a whole recipe, which survives its own TOML."""
    recipe = Recipe.of(preset)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.of(file=file) == recipe, f"The preset '{preset}' is another recipe once written as TOML and read."


def check_strategy(strategy: Strategy, *, cost_tolerance: float = 1e-9) -> None:
    """Run the check of the strategy's own kind."""
    if isinstance(strategy, CostModel):
        check_cost_model(strategy, tolerance=cost_tolerance)
        return
    checks: dict[type[Strategy], Any] = {
        Scorer: check_scorer,
        Searcher: check_searcher,
        Rearranger: check_rearranger,
        Tuner: check_tuner,
        Schedule: check_schedule,
    }
    fitting = [check for contract, check in checks.items() if isinstance(strategy, contract)]
    assert len(fitting) == 1, f"{type(strategy).__name__} fulfils {len(fitting)} contracts; it must fulfil exactly one."
    fitting[0](strategy)


def check_options(strategy: Strategy) -> None:
    """It is a frozen, keyword-only, documented dataclass, whose options are documented and can be read from text."""
    kind = type(strategy)
    who = f"{kind.__name__} '{getattr(kind, 'name', '')}'"
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", getattr(kind, "name", "")), f"{who}: a name is lower-case words."
    assert "__dataclass_params__" in vars(kind), f"{who} must be decorated with @dataclass itself."
    assert kind.__dataclass_params__.frozen, f"{who} must be a frozen dataclass."  # type: ignore[attr-defined]
    written = (kind.__doc__ or "").strip()
    assert written, f"{who} needs a docstring: help and documentation print it."
    assert not written.startswith(f"{kind.__name__}("), f"{who} needs a docstring of its own, not dataclass's."
    assert strategy.needs <= OPTIONAL_SCORES, f"{who} needs {sorted(strategy.needs - OPTIONAL_SCORES)}; no such scores."
    keyword_only = {field.name: field.kw_only for field in dataclasses.fields(kind)}
    for info in options_of(kind):
        value = getattr(strategy, info.name)
        assert keyword_only[info.name], f"{who}: the option '{info.name}' must be keyword-only (kw_only=True)."
        assert info.help, f"{who}: the option '{info.name}' needs a sentence of help: option(default, help=...)."
        try:
            read = getattr(built(kind.__name__, kind, {info.name: str(value)}), info.name)
        except UsageError as error:
            raise AssertionError(f"{who}: its value cannot be read from text: {error}") from error
        assert read == value, f"{who}: the option '{info.name}' is {value!r}, and read from text {read!r}."


def check_scorer(scorer: Scorer, *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Its contract holds, also on a model that has lost a whole group before; one seed gives one answer; it leaves the
    model exactly as it was; it fills what it says it gives; padding changes nothing.

    Args:
        scorer: With the options to check it with.
        model: A tiny model; None: a BERT.
        batches: A calibration set, padded on the right; None: random.
    """
    check_options(scorer)
    model, batches = _model_and_batches(model, batches)
    who = f"scorer '{scorer.name}'"
    groups = Groups.resolve(plugins.architecture_for(model), model)
    assert scorer.gives <= OPTIONAL_SCORES, f"The {who} gives {sorted(scorer.gives - OPTIONAL_SCORES)}; no such scores."
    scores = _score(scorer, model, groups, batches)
    for name in OPTIONAL_SCORES - scorer.gives:
        assert getattr(scores, name) is None, f"The {who} fills '{name}', but does not say so in 'gives'."
    _check_optional_scores(who, scores, groups, batches)
    again = _score(scorer, model, groups, batches)
    padded = _score(scorer, model, groups, _pad_further(model, batches))
    for group in groups:
        one = scores.importance[group.name]
        assert torch.equal(one, again.importance[group.name]), (
            f"The {who} gives other importance to '{group.name}' from the same seed; draw from the generator alone."
        )
        assert _difference(one, padded.importance[group.name]) <= 1e-4, (
            f"The {who} gives other importance to '{group.name}' where there is more padding; leave padding out."
        )
    names = [group.name for group in groups]
    for mask in (_some_mask(groups, empty=names[0], single=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))):
        pruned = materialize(model, groups, mask)
        _score(scorer, pruned, Groups.resolve(plugins.architecture_for(model), pruned), batches)


def check_searcher(searcher: Searcher, *, trials: int = 60) -> None:
    """On random scores and cost tables: a mask within the budget, the same one each time, from the floor to the total,
    where everything is kept; arguments are left alone. It may refuse tables that are no straight lines, by UsageError.

    Args:
        searcher: With the options to check it with.
        trials: How many random problems.
    """
    check_options(searcher)
    who = f"searcher '{searcher.name}'"
    generator = torch.Generator().manual_seed(0)
    for trial in range(trials):
        groups = _some_groups(generator, most=0 if trial == 0 else 7)
        straight = trial % 3 != 2
        scores, costs = _some_scores(groups, generator), _some_costs(groups, generator, straight=straight)
        if trial % 2:  # what is measured is no whole number
            costs = CostTable(
                measure=costs.measure, groups={n: c / 7 for n, c in costs.groups.items()}, fixed=costs.fixed / 7
            )
        before = copy.deepcopy((dict(scores.importance), dict(costs.groups)))
        shares = [0.0, 1.0, *torch.rand(6, generator=generator).tolist()]
        for budget in (costs.floor + share * (costs.total - costs.floor) for share in shares):
            try:
                with _contract():
                    mask = searcher.search(scores, costs, budget)
                    contracts.check_search(mask, groups, costs, budget, searcher)
            except UsageError as error:
                if straight:
                    raise AssertionError(f"The {who} refused straight lines of two unit costs: {error}") from error
                continue
            again = searcher.search(scores, costs, budget)
            assert _same_masks(mask, again), f"The {who} gives two masks for the same scores, costs and budget."
            if budget >= costs.total:
                kept = sum(mask.counts().values())
                assert kept == sum(group.units for group in groups), (
                    f"The {who} keeps {kept} of {sum(g.units for g in groups)} units though the budget pays for all."
                )
        after = (dict(scores.importance), dict(costs.groups))
        assert all(_same_tensors(one, other) for one, other in zip(before, after, strict=True)), (
            f"The {who} changed its arguments."
        )


def check_rearranger(rearranger: Rearranger, *, trials: int = 20) -> None:
    """On random masks and scores: as many units kept in each group as before, none of an empty group; the same answer
    each time; arguments are left alone.

    Args:
        rearranger: With the options to check it with.
        trials: How many random problems.
    """
    check_options(rearranger)
    who = f"rearranger '{rearranger.name}'"
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        groups = _some_groups(generator)
        scores = _some_scores(groups, generator)
        mask = Mask({g.name: torch.rand(g.units, generator=generator) < 0.6 for g in groups})
        before = copy.deepcopy((dict(mask.values), dict(scores.importance), dict(scores.grads or {})))
        with _contract():
            after = rearranger.rearrange(mask, scores)
            contracts.check_rearrangement(after, mask, groups, rearranger)
        now = (dict(mask.values), dict(scores.importance), dict(scores.grads or {}))
        assert all(_same_tensors(one, other) for one, other in zip(before, now, strict=True)), (
            f"The {who} changed its arguments."
        )
        assert _same_masks(after, rearranger.rearrange(mask, scores)), f"The {who} gives two masks for one problem."


def check_tuner(tuner: Tuner, *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """With half of the units gone, and with no, one and all units left in groups: its contract holds, the teacher is
    exactly as it was, and what it changes brings the hidden states over the calibration set closer to the teacher's.
    With nothing pruned it changes next to nothing.

    Args:
        tuner: With the options to check it with.
        model: A tiny model; None: a BERT.
        batches: A calibration set; None: random.
    """
    check_options(tuner)
    model, batches = _model_and_batches(model, batches, samples=64)
    who = f"tuner '{tuner.name}'"
    groups = Groups.resolve(plugins.architecture_for(model), model)
    scores = _fisher_scores(model, groups, batches)
    names = [group.name for group in groups]
    masks = {
        "half of the units": _some_mask(groups),
        "an empty group": _some_mask(groups, empty=names[0]),
        "an empty last group": _some_mask(groups, empty=names[-1]),
        "one unit in a group, all in another": _some_mask(groups, single=names[0], full=names[-1]),
        "nothing at all": Mask.first(groups, dict.fromkeys(names, 0)),
    }
    for left, mask in masks.items():
        untuned, tuned, changed = _tune(tuner, model, groups, mask, batches, scores)
        assert not changed or tuned <= untuned * (1 + 1e-6), (
            f"The {who} makes it worse with {left} left: the mean squared error of the last hidden states over its own "
            f"calibration set is {tuned:.4g}, untuned {untuned:.4g}."
        )
    _, tuned, _ = _tune(tuner, model, groups, Mask.full(groups), batches, scores)
    assert tuned < 1e-6, f"The {who} changes a model that lost nothing: a mean squared error of {tuned:.3g}."


def check_cost_model(
    cost: CostModel,
    *,
    model: nn.Module | None = None,
    batches: Batches | None = None,
    tolerance: float = 1e-9,
    architecture: Architecture | None = None,
) -> None:
    """Its contract holds; the model is exactly as it was; more units never cost less; the total is what the model
    costs, and every entry what the model of that size costs when it is built and measured itself.

    Args:
        cost: With the options to check it with.
        model: A tiny model; None: a BERT.
        batches: What the workload is made from; None: random.
        tolerance: How far a prediction may lie from the measurement, relative to the full model's cost.
        architecture: Where the model's units are; None: by its ``config.model_type``.
    """
    check_options(cost)
    model, batches = _model_and_batches(model, batches)
    who = f"cost model '{cost.name}'"
    architecture = architecture or plugins.architecture_for(model)
    groups = Groups.resolve(architecture, model)
    workload = Workload.of(batches)
    with _untouched(model, who), _contract():
        table = cost.measure(model, groups, workload)
        contracts.check_costs(table, groups, cost)
    assert table.measure, f"The {who} does not say what it counts: CostTable.measure is empty."
    assert table.total > 0, f"The {who} says that the whole model costs {table.total}."
    for name, costs in table.groups.items():
        assert costs.dtype == torch.float64, f"The {who} gives '{name}' costs of {costs.dtype}; they must be float64."
        assert bool((costs.diff() >= 0).all()), (
            f"The {who} says that more units of '{name}' cost less: {costs.tolist()}."
        )
        assert float(costs[-1]) > float(costs[0]), f"The {who} says that pruning '{name}' saves nothing."
    names = [group.name for group in groups]
    masks = [Mask.full(groups), _some_mask(groups), _some_mask(groups, empty=names[0], single=names[-1])]
    masks += [_some_mask(groups, empty=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))]
    for mask in masks:
        smaller = materialize(model, groups, mask)
        measured = cost.measure(smaller, Groups.resolve(architecture, smaller), workload).total
        said = table.of(mask.counts())
        assert abs(measured - said) <= tolerance * table.total, (
            f"The {who} says that {mask.counts()} cost {said:.6g} {table.measure}; built and measured it is {measured:.6g}."
        )


def check_schedule(schedule: Schedule) -> None:
    """For every budget there is a pass; budgets never rise, and the last is exactly the one asked for; each group loses
    units in some pass, and none in a pass after the one that settles it."""
    check_options(schedule)
    generator = torch.Generator().manual_seed(0)
    for budget in (1.0, 0.9, 0.5, 0.31, 0.05, 1e-3):
        with _contract():
            contracts.checked_passes(schedule, budget, _some_groups(generator))


def check_task(task: type[Task], *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Labels drawn from a model's own predictions come under the task's names, the same from one seed, without a graph;
    losses are one a sample, finite, independent of the other samples and of padding, and have gradients; a model agrees
    with itself.

    Args:
        task: The class.
        model: A tiny model of a class that it serves; None: a BERT with the task's head.
        batches: Without need of labels; None: random.
    """
    who = f"task '{task.name}'"
    assert task.heads, f"The {who} serves no head."
    assert set(task.token_label_names) <= set(task.label_names), f"The {who}: token_label_names must be label_names."
    model = model or _model_for(task)
    assert task.serves(model.config, type(model).__name__), f"The {who} does not serve {type(model).__name__}."  # type: ignore[arg-type]
    chosen = task.for_config(model.config)  # type: ignore[arg-type]
    unlabelled = Batches.wrap(batches or tiny_batches(model, labels=False), chosen)
    batch = model_inputs(unlabelled.batches[0], chosen)
    with frozen(model):
        outputs = model(**batch)
        drawn = [chosen.draw_labels(outputs, batch, torch.Generator().manual_seed(seed)) for seed in (0, 0)]
        assert set(drawn[0]) == set(task.label_names), f"The {who} draws {sorted(drawn[0])}, not {task.label_names}."
        assert not any(value.requires_grad for value in drawn[0].values()), f"The {who} draws labels that have a graph."
        assert _same_tensors(*drawn), f"The {who} draws other labels from the same seed."
        labelled = Batches.wrap([{**batch, **drawn[0]}], chosen)
        whole = chosen.loss(outputs, labelled.batches[0])
        further = _pad_further(model, labelled).batches[0]
        padded = chosen.loss(model(**model_inputs(further, chosen)), further)
        single = []
        for row in range(len(whole)):
            one = {name: value[row : row + 1] for name, value in labelled.batches[0].items()}
            single.append(chosen.loss(model(**model_inputs(one, chosen)), one))
        compared = chosen.compare([outputs], [outputs], [labelled.batches[0]])
    samples = _samples(batch)
    assert whole.shape == (samples,), f"The {who} gives losses {list(whole.shape)} for {samples} samples; one each."
    assert bool(torch.isfinite(whole).all()), f"The {who} gives losses that are not finite."
    assert _difference(whole, torch.cat(single)) < 1e-4, (
        f"The {who}: a sample's loss depends on the others in its batch."
    )
    assert _difference(whole, padded) < 1e-4, f"The {who}: a sample's loss depends on its padding."
    model.zero_grad()
    chosen.loss(model(**batch), labelled.batches[0]).sum().backward()
    reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    model.zero_grad()
    assert reached, f"The {who}: no gradient of the loss reaches the model."
    assert compared, f"The {who} compares nothing."
    assert all(abs(value - 1) < 1e-4 for value in compared.values()), (
        f"The {who}: a model differs from itself: {compared}."
    )


def check_architecture(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> None:
    """Pruned by this data, a model is what it would be with its units masked: half of them gone, all of a group, all but
    one, all of them, in one step and in two. It trains, its attention implementations agree, it is bit-equal after
    saving and loading, and its per-sample gradients equal one-by-one backward passes.

    Args:
        architecture: To be checked.
        model: A tiny model of the family.
        batches: To run it on; None: random.
        save: Whether models of the family can be saved: they are transformers models.
    """
    for check in architecture_checks(architecture, model, batches, save=save):
        check.run()


@dataclass(frozen=True)
class Check:
    """One check of a suite: what must hold, and what raises an AssertionError where it does not."""

    name: str
    run: Callable[[], None]


def architecture_checks(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> Iterator[Check]:
    """The checks of ``check_architecture`` one by one, with the same arguments; none has run yet.

    Raises:
        ModelError: The architecture does not fit the model.
    """
    batches = batches or tiny_batches(model)
    groups = Groups.resolve(architecture, model)
    who = f"architecture '{architecture.name}' on {type(model).__name__}"
    names = [group.name for group in groups]
    some = _some_mask(groups)
    emptied = _some_mask(groups, empty=names[0])

    yield Check("groups have names of their own and units", lambda: _check_groups(who, groups))
    for left, mask in _telling_masks(groups).items():
        masked_equals = functools.partial(_check_masked, who, left, architecture, model, groups, mask, batches)
        yield Check(f"masked equals pruned: {left} left", masked_equals)
    yield Check("two steps equal one", lambda: _check_two_steps(who, architecture, model, groups, batches))
    yield Check("eager and sdpa agree", lambda: _check_attention(who, model, groups, batches))
    if isinstance(model, transformers.PreTrainedModel) and model.can_generate():
        for left, mask in _telling_masks(groups).items():
            generates = functools.partial(_check_generation, who, left, model, groups, mask)
            yield Check(f"generation, with and without cache: {left} left", generates)
    # what comes before an empty sublayer alone, such as its LayerNorm, has no gradient: it changes nothing
    yield Check("it trains on", lambda: _check_training(who, model, materialize(model, groups, some), batches))
    yield Check("gradients by the mask", lambda: _check_gradients(f"{who} (dense)", model, groups, batches))

    def gradients_once_pruned() -> None:
        pruned = materialize(model, groups, emptied)
        _check_gradients(f"{who} (pruned)", pruned, Groups.resolve(architecture, pruned), batches)

    yield Check("gradients by the mask, once pruned", gradients_once_pruned)
    yield Check("layer by layer equals whole", lambda: _check_layers(who, architecture, model, groups, some, batches))
    if save:
        few, none = _some_mask(groups, empty=names[0], single=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))
        for left, mask in {f"no unit of '{names[0]}', one of '{names[-1]}'": few, "no unit at all": none}.items():
            saves = functools.partial(_check_saved, who, left, architecture, model, groups, mask, batches)
            yield Check(f"saved and loaded bit-equal: {left}", saves)


def _check_groups(who: str, groups: Groups) -> None:
    assert len({group.name for group in groups}) == len(groups), f"The {who} has two groups of one name."
    assert all(group.units > 1 for group in groups), f"The {who}: a group of this model has fewer than two units."


def _standing_still(check: Callable[..., None]) -> Callable[..., None]:
    """No graph is kept."""

    @functools.wraps(check)
    def still(*arguments: Any) -> None:
        model = next(argument for argument in arguments if isinstance(argument, nn.Module))
        with frozen(model), torch.no_grad():
            check(*arguments)

    return still


@_standing_still
def _check_masked(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """Only smaller, and otherwise what the masked model is."""
    dense = _outputs(model, batches)
    with masked(model, groups, mask):
        expected = _outputs(model, batches)
    pruned = materialize(model, groups, mask).eval()
    apart = _furthest(expected, _outputs(pruned, batches))
    assert apart < 1e-5, f"The {who}: with {left} left, the smaller model is {apart:.3g} away from the masked one."
    assert _furthest(dense, expected) > 1e-4, f"The {who}: masking so that {left} is left does not change the outputs."
    found = {group.name: group.units for group in Groups.resolve(architecture, pruned)}
    assert found == mask.counts(), f"The {who}: with {left} left, the smaller model's units are {found}."
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters()), (
        f"The {who}: with {left} left, the pruned model has no fewer parameters."
    )


@_standing_still
def _check_two_steps(who: str, architecture: Architecture, model: nn.Module, groups: Groups, batches: Batches) -> None:
    first = _some_mask(groups, seed=1)
    once = materialize(model, groups, first)
    left = Groups.resolve(architecture, once)
    second = _some_mask(left, seed=2)
    twice = materialize(once, left, second).eval()
    direct = materialize(model, groups, second.within(first)).eval()
    apart = _furthest(_outputs(direct, batches), _outputs(twice, batches))
    assert apart < 1e-6, f"The {who}: pruned in two steps, the model is {apart:.3g} away from pruned in one."


@_standing_still
def _check_attention(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    mask = _some_mask(groups, empty=groups.items[0].name)
    outputs = {}
    for implementation in ("eager", "sdpa"):
        pruned = materialize(model, groups, mask).eval()
        try:
            pruned.set_attn_implementation(implementation)  # type: ignore[operator]
        except (AttributeError, ValueError):  # what the family does not have cannot disagree
            continue
        outputs[implementation] = _outputs(pruned, batches)
    for one, other in itertools.pairwise(outputs):
        apart = _furthest(outputs[one], outputs[other])
        assert apart < 1e-4, f"The {who}: pruned, {one} and {other} attention are {apart:.3g} apart."


def _check_generation(who: str, left: str, model: Any, groups: Groups, mask: Mask) -> None:
    """Token by token the same with and without the cache, as the masked model says it, whatever the padding is."""
    ids = torch.randint(3, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((2, 3), _pad_token(model)), ids], 1)  # [samples, padding + tokens]
    real = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(ids)], 1)

    def continued(one: Any, tokens: Tensor, attention: Tensor, *, cached: bool) -> Tensor:
        length = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False, "use_cache": cached}
        produced: Tensor = one.generate(
            input_ids=tokens, attention_mask=attention, pad_token_id=_pad_token(model), **length
        )
        return produced[:, tokens.shape[1] :]

    pruned = materialize(model, groups, mask).eval()
    with frozen(model), frozen(pruned), torch.no_grad():
        with masked(model, groups, mask):
            expected = continued(model, ids, torch.ones_like(ids), cached=False)
        whole = torch.ones_like(ids)
        for cached, tokens, attention in ((False, ids, whole), (True, ids, whole), (True, padded, real)):
            produced = continued(pruned, tokens, attention, cached=cached)
            assert torch.equal(expected, produced), (
                f"The {who}: with {left} left, the smaller model generates {produced.tolist()} (cache: {cached}, padded on "
                f"the left: {tokens is padded}); the masked one {expected.tolist()}."
            )


def _check_training(who: str, dense: nn.Module, pruned: nn.Module, batches: Batches) -> None:
    """Gradients reach every parameter of the smaller model that had one in the dense, and a step lowers the loss."""
    reached = []
    for model in (copy.deepcopy(dense), copy.deepcopy(pruned)):
        model.train()
        loss = _training_loss(model, batches)
        loss.backward()
        reached.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
    names = {name for name, _ in pruned.named_parameters()}
    missed = sorted(reached[0] & names - reached[1])
    assert not missed, f"The {who}: once pruned, no gradient reaches {', '.join(missed)}."
    with torch.no_grad():
        squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-4 / max(squares, 1e-12) ** 0.5)
        after = _training_loss(model, batches)
    assert float(after) < float(loss.detach()), (
        f"The {who}: once pruned, a step along the gradient does not lower the loss."
    )


def _check_gradients(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    """Those of one batched backward against those of one backward a sample, by masks that are there for autograd."""
    task = batches.task
    assert task is not None, "The batches have no task."
    batch = dict(batches.batches[0])
    with unit_gradients(model, groups) as seen:
        task.loss(model(**model_inputs(batch, task)), batch).sum().backward()
    for row in range(_samples(batch)):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        one_by_one = _mask_gradients(model, groups, one, task)
        largest = max(float(expected.abs().max()) for expected in one_by_one.values())
        for name, expected in one_by_one.items():
            apart = float((seen.by_unit[name][row] - expected).abs().max())
            scale = max(float(expected.abs().max()), 0.01 * largest, 1e-2)
            assert apart < 1e-4 * scale, (
                f"The {who}: sample {row}'s gradient by the mask of '{name}' is {apart:.3g} off."
            )


def _mask_gradients(model: nn.Module, groups: Groups, batch: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The gradient of one sample's loss by the mask, by autograd on the mask itself: [units] a group."""
    masks = {group.name: torch.ones(group.units, requires_grad=True) for group in groups if group.units}
    with frozen(model), contextlib.ExitStack() as hooks:
        for group in (group for group in groups if group.units):

            def multiply(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> tuple[Tensor, ...]:
                return (arguments[0] * masks[group.name].repeat_interleave(group.width), *arguments[1:])

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(multiply).remove)
        loss = task.loss(model(**model_inputs(batch, task)), batch).sum()
        return dict(zip(masks, torch.autograd.grad(loss, list(masks.values())), strict=True))


def _check_layers(
    who: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """What a tuner is shown, one layer at a time, is what two whole forward passes show."""
    student = materialize(model, groups, mask).eval()
    left = Groups.resolve(architecture, student)
    shown: dict[str, Statistics] = {}

    def see(group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None) -> Any:
        shown[group.name] = statistics
        return weight, bias

    reconstruct(model, student, left, batches, see)
    assert set(shown) == set(mask), f"The {who}: of {len(list(mask))} groups, tuners are shown {len(shown)}."
    for group, whole in whole_statistics(model, materialize(model, groups, mask).eval(), left, batches).items():
        found = shown[group]
        for what, one, other in (("inputs", found.inputs, whole.inputs), ("errors", found.errors, whole.errors)):
            apart = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
            assert apart < 1e-3, f"The {who}: the {what} of '{group}' that a tuner is shown are {apart:.3g} off."


def _check_saved(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    pruned = materialize(model, groups, mask).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        checkpoint.save(pruned, path, architecture=architecture, details={})
        try:
            loaded = checkpoint.load(path, model_class=type(pruned))  # type: ignore[arg-type]
        except FastpruneError as error:
            raise AssertionError(f"The {who}: with {left} left, a saved model cannot be loaded: {error}") from error
    with torch.no_grad():
        pairs = zip(_outputs(pruned, batches), _outputs(loaded, batches), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), (
            f"The {who}: with {left} left, saving and loading changes the outputs."
        )
    saved, opened = pruned.state_dict(), loaded.state_dict()
    assert _same_tensors(saved, opened), f"The {who}: with {left} left, saving and loading changes the weights."


def _telling_masks(groups: Groups) -> dict[str, Mask]:
    """Masks that an architecture may fail on, by what they leave."""
    masks = {"half of the units": _some_mask(groups)}
    for kind in dict.fromkeys(group.kind for group in groups):
        name = next(group.name for group in groups if group.kind == kind)
        masks[f"no unit of '{name}'"] = _some_mask(groups, empty=name)
        masks[f"one unit of '{name}'"] = _some_mask(groups, single=name)
    masks["no unit at all"] = Mask.first(groups, dict.fromkeys((group.name for group in groups), 0))
    return masks


def _some_mask(groups: Groups, *, empty: str = "", single: str = "", full: str = "", seed: int = 0) -> Mask:
    """About half of the units of each group, at least one kept and one pruned where there are two."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for group in groups:
        count = {empty: 0, single: 1, full: group.units}.get(group.name, max(1, group.units // 2))
        order = torch.randperm(group.units, generator=generator)
        values[group.name] = torch.zeros(group.units, dtype=torch.bool)
        values[group.name][order[: min(count, group.units)]] = True
    return Mask(values)


def _some_groups(generator: torch.Generator, most: int = 7) -> Groups:
    """Two to five groups of two kinds, of 0 to ``most`` units, on no model."""
    count = int(torch.randint(2, 6, (), generator=generator))
    units = torch.randint(0, most + 1, (count,), generator=generator).tolist()
    kinds = ("attention", "ffn")
    blocks = [Block(kind=kinds[at % 2], module="m", producers=("p",), consumer="c") for at in range(count)]
    return Groups(
        tuple(
            Group(
                name=f"layer.{at}.{blocks[at].kind}",
                layer=f"layer.{at}",
                units=units[at],
                width=1,
                hidden=4,
                block=blocks[at],
            )
            for at in range(count)
        )
    )


def _some_scores(groups: Groups, generator: torch.Generator) -> Scores:
    """Gradients of 12 samples, and their mean square, with some equal and some zero."""
    grads = {g.name: torch.randn(12, g.units, generator=generator).mul(2).round().div(2) for g in groups}
    tokens = {g.name: (torch.rand(12, 5, generator=generator),) for g in groups}
    scores = Scores(importance={n: g.square().mean(0) for n, g in grads.items()}, grads=grads, token_weights=tokens)
    return dataclasses.replace(scores, damage={g.name: scores.damage_of(g.name).sqrt() for g in groups})


def _some_costs(groups: Groups, generator: torch.Generator, *, straight: bool) -> CostTable:
    """A cost a kind, or else steps of any height, of which the first may be free."""
    unit = {"attention": 64.0, "ffn": float(torch.randint(1, 64, (), generator=generator))}
    tables = {}
    for group in groups:
        steps = torch.full((group.units,), unit[group.kind], dtype=torch.float64)
        if not straight:
            steps = torch.randint(0, 40, (group.units,), generator=generator).double()
        tables[group.name] = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    return CostTable(measure="coins", groups=tables, fixed=float(torch.randint(1, 50, (), generator=generator)))


def _fisher_scores(model: nn.Module, groups: Groups, batches: Batches) -> Scores:
    grads, weights = collect_gradients(model, groups, batches, "model", torch.Generator().manual_seed(0))
    importance = {name: gradient.square().mean(0) for name, gradient in grads.items()}
    return Scores(importance=importance, grads=grads, token_weights=weights)


def _score(scorer: Scorer, model: nn.Module, groups: Groups, batches: Batches) -> Scores:
    with _untouched(model, f"scorer '{scorer.name}'"), _contract():
        scores = scorer.score(model, groups, batches, torch.Generator().manual_seed(0))
        contracts.check_scores(scores, groups, scorer)
    return scores


def _check_optional_scores(who: str, scores: Scores, groups: Groups, batches: Batches) -> None:
    for group in groups:
        if scores.grads is not None:
            shape, wanted = tuple(scores.grads[group.name].shape), (batches.n_samples, group.units)
            assert shape == wanted, (
                f"The {who} gives grads of {list(shape)} for '{group.name}'; it must be {list(wanted)}."
            )
        if scores.token_weights is not None:
            shapes = [tuple(weights.shape) for weights in scores.token_weights[group.name]]
            expected = [tuple(token_mask(batch).shape) for batch in batches]
            assert shapes == expected, f"The {who} gives token weights of {shapes} for '{group.name}', not {expected}."
            least = min(float(weights.min()) for weights in scores.token_weights[group.name])
            assert least >= 0, f"The {who} gives '{group.name}' a token weight of {least}; none may be negative."


def _tune(
    tuner: Tuner, teacher: nn.Module, groups: Groups, mask: Mask, batches: Batches, scores: Scores
) -> tuple[float, float, bool]:
    """The error untuned and tuned, and whether the tuner returned anything."""
    architecture = plugins.architecture_for(teacher)
    student, untuned = materialize(teacher, groups, mask).eval(), materialize(teacher, groups, mask).eval()
    left = Groups.resolve(architecture, student)
    with _untouched(teacher, f"tuner '{tuner.name}'"), _contract():
        reconstruction = tuner.tune(teacher, student, left, batches, scores)
        contracts.check_reconstruction(reconstruction, student, left, tuner)
    tuned = copy.deepcopy(untuned)
    reconstruct_consumers(tuned, left, reconstruction)
    return _error(teacher, untuned, batches), _error(teacher, tuned, batches), bool(reconstruction)


@torch.no_grad()
def _error(teacher: nn.Module, student: nn.Module, batches: Batches) -> float:
    """Mean squared error of the last hidden states, over the real tokens."""
    total, count = 0.0, 0
    for batch in batches:
        real = token_mask(batch) if _has_tokens(batch) else slice(None)  # [samples, tokens]
        inputs = model_inputs(batch, batches.task)
        states = [getattr(model, "base_model", model)(**inputs)[0][real] for model in (teacher, student)]
        total += float((states[0] - states[1]).double().square().sum())
        count += states[0].numel()
    return total / count


def _training_loss(model: nn.Module, batches: Batches) -> Tensor:
    """The mean loss of the first batch, towards its labels; dropout drops the same each time."""
    assert batches.task is not None, "The batches have no task."
    batch = batches.batches[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return batches.task.loss(model(**model_inputs(batch, batches.task)), batch).mean()


def _outputs(model: nn.Module, batches: Batches) -> list[Tensor]:
    """Every tensor that the model returns, over all batches."""
    found = []
    for batch in batches:
        output = model(**model_inputs(batch, batches.task))
        found += [value for value in output.values() if isinstance(value, Tensor)]
    return found


def _furthest(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, relative to values above 1."""
    pairs = list(zip(ones, others, strict=True))
    return max(float((one - other).abs().max()) / max(1.0, float(one.abs().max())) for one, other in pairs)


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest value."""
    if one.numel() == 0:
        return 0.0
    return float((one - other).abs().max()) / max(float(one.abs().max()), 1e-12)


def _same_masks(one: Mask, other: Mask) -> bool:
    return _same_tensors(one.values, other.values)


def _same_tensors(ones: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in ones.items())


def _model_and_batches(
    model: nn.Module | None, batches: Batches | None, *, samples: int = 24
) -> tuple[nn.Module, Batches]:
    model = tiny_model() if model is None else model
    return model, tiny_batches(model, samples=samples) if batches is None else batches


def _pad_token(model: nn.Module) -> int:
    return getattr(model.config, "pad_token_id", None) or 0


def _pad_further(model: nn.Module, batches: Batches, extra: int = 4) -> Batches:
    """The same batches, with more padding on the right where they have any."""
    if not all(_has_tokens(batch) for batch in batches):
        return batches
    padded = []
    for batch in batches:
        tokens = token_mask(batch).shape[1]
        by_token = set(batch) - set(batches.task.label_names if batches.task else ())
        names = {name for name in by_token if batch[name].dim() > 1 and batch[name].shape[1] == tokens}
        fill = dict.fromkeys(names, 0) | {"input_ids": _pad_token(model)}
        fill |= {name: NO_LABEL for name in (batches.task.token_label_names if batches.task else ()) if name in batch}
        longer = dict(batch)
        for name in fill:
            added = batch[name].new_full((len(batch[name]), extra, *batch[name].shape[2:]), fill[name])
            longer[name] = torch.cat([batch[name], added], 1)  # [samples, tokens + extra]
        padded.append(longer)
    return Batches.wrap(padded, batches.task)


def _has_tokens(batch: Mapping[str, Tensor]) -> bool:
    return "input_ids" in batch


def _samples(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _model_for(task: type[Task]) -> nn.Module:
    """A tiny model with the task's head: a BERT, or else one of the first family that has such a head."""
    registry = plugins.installed().architecture
    known = [model_type for name in registry for model_type in registry[name].model_types]
    for model_type in ("bert", *known):
        with contextlib.suppress(ValueError, AttributeError):  # transformers has no such head for the type
            return tiny_model(model_type, task.heads[0], num_labels=1 if _serves_numbers(task) else 2)
    raise AssertionError(f"The task '{task.name}' serves {task.heads[0]}, which no known family has; give a model.")


def _serves_numbers(task: type[Task]) -> bool:
    """Whether the task is for heads with one output: those that it does not serve with two."""
    config = transformers.AutoConfig.for_model("bert", num_labels=2)
    return not any(task.serves(config, f"Bert{head}") for head in task.heads)


@contextlib.contextmanager
def _contract() -> Iterator[None]:
    """A broken contract is a failed check."""
    try:
        yield
    except ContractError as error:
        raise AssertionError(str(error)) from error


@contextlib.contextmanager
def _untouched(model: nn.Module, who: str) -> Iterator[None]:
    """The model comes out exactly as it went in."""
    before = _state(model)
    yield
    for what, value in _state(model).items():
        assert value == before[what], f"The {who} changed the model's {what}; it must leave the model as it was."


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything that a careless strategy may leave changed, comparable by ==."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "weights": {name: _bytes(tensor) for name, tensor in tensors},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors},
        "gradients": {name: tensor.grad is None for name, tensor in tensors if tensor.is_leaf},
        "training modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: _hooks(module) for name, module in model.named_modules()},
        "forward methods": {name for name, module in model.named_modules() if "forward" in vars(module)},
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)


@dataclass(frozen=True)
class _Alone:
    """What stands for the entry point of a plugin that is checked by itself."""

    name: str
    module: Any
    dist: None = None

    @property
    def value(self) -> str:
        return self.name

    def load(self) -> Any:
        return self.module


def _register_alone(name: str, module: Any) -> plugins.Plugins:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            registered = plugins.load([_Alone(name, module)])  # type: ignore[list-item]
        except FastpruneError as error:
            raise AssertionError(str(error)) from error
    problems = [info.problem for info in registered.found if info.problem]
    assert not problems, f"The plugin '{name}' does not load: {problems[0]} ({len(caught)} warnings)."
    return registered
