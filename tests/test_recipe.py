"""Recipes: preset, file, names, instances and settings, laid over one another."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import fastprune
from fastprune import Recipe, UsageError, strategy
from fastprune.errors import OptionError, UnknownNameError


def test_preset_is_the_ground() -> None:
    assert Recipe.of("paper").tuner == strategy("tuner", "mask")
    assert Recipe.of().tuner.name == "descent"
    assert Recipe.of() == Recipe.of("default")


def test_named_stage_starts_from_its_defaults() -> None:
    recipe = Recipe.of("paper", tuner="bias", scorer="taylor")
    assert (recipe.tuner, recipe.scorer) == (strategy("tuner", "bias"), strategy("scorer", "taylor"))
    assert recipe.searcher == Recipe.of("paper").searcher


def test_instance_is_taken_as_it_is() -> None:
    tuner = strategy("tuner", "mask", damp=0.25)
    assert Recipe.of(tuner=tuner).tuner is tuner


def test_settings_lie_over_everything(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('[tuner]\nuse = "mask"\ndamp = 0.5\nlimit = 3.0\n')
    recipe = Recipe.of(file, settings={"tuner": {"damp": "2"}, "cost": {"scope": "layers"}})
    assert recipe.tuner == strategy("tuner", "mask", damp=2.0, limit=3.0)
    assert recipe.cost == strategy("cost", "macs", scope="layers")
    instance = Recipe.of(tuner=strategy("tuner", "mask", limit=4.0), settings={"tuner": {"damp": 7}})
    assert instance.tuner == strategy("tuner", "mask", damp=7.0, limit=4.0)


def test_file_replaces_whole_stages_of_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('preset = "paper"\n\n[scorer]\nuse = "magnitude"\n\n[rearranger]\nuse = "none"\n')
    recipe = Recipe.of(file)
    assert (recipe.scorer.name, recipe.rearranger.name, recipe.tuner.name) == ("magnitude", "none", "mask")


def test_round_trip_through_toml(tmp_path: Path) -> None:
    recipe = Recipe.of(
        "paper",
        scorer=strategy("scorer", "fisher", labels="model"),
        tuner=strategy("tuner", "weights", damping=1e-5, tokens="gradient"),
        cost=strategy("cost", "macs", seq_len=17),
    )
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    assert Recipe.of(file) == recipe
    assert recipe != Recipe.of("paper")
    tables = tomllib.loads(recipe.to_toml())
    options = {"damping": 1e-5, "tokens": "gradient", "producers": True, "held_back": 10}
    assert tables["tuner"] == {"use": "weights", "tokens_per_feature": 32.0, **options}


def test_option_that_is_none_survives_toml(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(Recipe.of().to_toml())
    assert Recipe.of(file).cost.seq_len is None


def test_text_in_toml_is_quoted() -> None:
    from fastprune.registry.recipe import _toml

    for text in ("C:\\new", 'say "no"', "two\nlines"):
        assert tomllib.loads(f"value = {_toml(text)}") == {"value": text}


def test_change_keeps_the_rest() -> None:
    recipe = Recipe.of("paper", scorer=strategy("scorer", "fisher", labels="model"))
    changed = Recipe.of(recipe, tuner="bias", settings={"cost": {"scope": "layers"}})
    assert changed.scorer is recipe.scorer
    assert changed.tuner == strategy("tuner", "bias")
    assert changed.cost == strategy("cost", "macs", scope="layers")
    assert recipe.tuner == strategy("tuner", "mask")


def test_change_to_the_name_that_is_there_keeps_its_options() -> None:
    recipe = Recipe.of(tuner=strategy("tuner", "mask", damp=0.5))
    assert Recipe.of(recipe, tuner="mask").tuner.damp == 0.5
    assert Recipe.of(recipe, tuner=strategy("tuner", "mask")).tuner.damp == 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"preset": "papers"}, UnknownNameError, "There is no preset 'papers'; did you mean 'paper'"),
        (
            {"tuner": "weight"},
            UnknownNameError,
            "There is no tuner 'weight'; did you mean 'weights'.*Known: bias, descent, mask",
        ),
        ({"tunner": "mask"}, UnknownNameError, "There is no stage 'tunner'. Known: scorer, searcher"),
        ({"settings": {"tunner": {}}}, UnknownNameError, "There is no stage 'tunner'"),
        ({"settings": {"tuner": {"dampin": 1}}}, OptionError, "no option 'dampin'; did you mean 'damping'"),
        ({"settings": {"tuner": {"damping": "x"}}}, OptionError, "option 'damping' of tuner 'descent' takes float"),
    ],
)
def test_what_is_not_known(arguments: dict, error: type[Exception], complaint: str) -> None:
    preset = arguments.pop("preset", "default")
    with pytest.raises(error, match=complaint):
        Recipe.of(preset, **arguments)


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("[scorer\n", UsageError, "is not TOML"),
        ("[scorer]\nlabels = 'model'\n", OptionError, r"\[scorer\] in .* must name its strategy: use = "),
        ("scorer = 'fisher'\n", OptionError, r"\[scorer\] in .* must name its strategy"),
        ("[scorers]\nuse = 'fisher'\n", UnknownNameError, "There is no stage 'scorers'"),
    ],
)
def test_file_that_is_no_recipe(tmp_path: Path, text: str, error: type[Exception], complaint: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(error, match=complaint):
        Recipe.of(file)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no such file: .*nowhere\.toml"):
        Recipe.of(tmp_path / "nowhere.toml")


def test_strategy_by_name() -> None:
    assert strategy("tuner", "mask", damp="0.5").damp == 0.5
    with pytest.raises(UnknownNameError, match="There is no kind of strategy 'tuners'"):
        fastprune.strategy("tuners", "mask")
