"""The modules of a SentenceTransformer behind its encoder: pooling, dense layers, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.errors import ModelError
from fastprune.untrusted import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(OLD_POOLINGS.values())
"""Poolings, in the order in which several of them are concatenated."""
INPUT = "sentence_embedding"
"""Name of the pooled vector that the modules behind the pooling read and write."""
Modules = Sequence[dict[str, Any]]


def refused(directory: Path, modules: Modules, what: str) -> ModelError:
    """The error for a directory that ``what`` rules out, with the way to its encoder alone."""
    folder = str(modules[0]["path"]) if modules else ""
    advice = "It holds no encoder of transformers."
    if (directory / folder / "config.json").exists():
        advice = (
            f"To prune its encoder alone, without what follows it, open {directory / folder}."
            if folder
            else f"To prune its encoder alone, without what follows it, copy {directory} without modules.json and open the copy."
        )
    return ModelError(f"{directory} is a model of sentence-transformers that {what}. {advice}")


def check_kinds(directory: Path, modules: Modules, opener: str) -> list[str]:
    """The kinds of the modules, in order.

    Raises:
        ModelError: A module is not supported, or the order is unusual.
    """
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    foreign = [
        str(module["type"]) for module in modules if not str(module["type"]).startswith("sentence_transformers.")
    ]
    if foreign:
        raise refused(directory, modules, f"has its own code for {', '.join(foreign)}, which fastprune does not run")
    behind = [kind for kind in kinds[2:] if kind != "Dropout"]  # which does nothing after training
    plain = behind[:-1] if behind[-1:] == ["Normalize"] else behind
    pooled = kinds[:2] == ["Transformer", "Pooling"] and set(plain) <= {"Dense"}
    fits = {"CrossEncoder": kinds == ["Transformer"], "SentenceTransformer": pooled}
    if not fits.get(opener):
        raise refused(
            directory,
            modules,
            f"has the modules {', '.join(kinds)}; fastprune supports Transformer, Pooling, Dense and Normalize in this order, and "
            "a CrossEncoder of one Transformer",
        )
    return kinds


def module_options(directory: Path, modules: Modules) -> dict[str, Any]:
    """The options of an embedding task for these modules: pooling, include_prompt, dense, normalize.

    Raises:
        ModelError: A module has a setting that is not supported.
    """
    pooling = read_settings(directory / modules[1]["path"] / "config.json")
    options: dict[str, Any] = {"pooling": _pooling(directory, modules, pooling), "normalize": False}
    if not pooling.get("include_prompt", True):
        options["include_prompt"] = False
    dense = []
    for module in modules[2:]:
        kind, folder = str(module["type"]).rpartition(".")[2], directory / module["path"]
        config = read_settings(folder / "config.json") if (folder / "config.json").exists() else {}
        names = {config.get("module_input_name") or INPUT, config.get("module_output_name") or INPUT}
        if names != {INPUT}:
            raise refused(directory, modules, f"has a {kind} of {', '.join(sorted(names))}, not of the pooled vector")
        if kind == "Dense":
            dense.append(_dense(folder, config))
        options["normalize"] |= kind == "Normalize"
    return options | ({"dense": tuple(dense)} if dense else {})


def read_modules(path: Path) -> list[dict[str, Any]]:
    """The modules in a ``modules.json``, each with a type and a path; ``ModelError`` if it cannot be read."""
    modules = _read(path)
    named = isinstance(modules, list) and all(
        isinstance(each, dict) and {str} == {type(each.get(name)) for name in ("type", "path")} for each in modules
    )
    if not named:
        raise ModelError(f"{path} is no list of modules, each with a type and a path.")
    return list(modules)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a JSON file; ``ModelError`` if it cannot be read."""
    content = _read(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold settings by name; got {str(content)[:100]}.")
    return content


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _pooling(directory: Path, modules: Modules, config: dict[str, Any]) -> str | tuple[str, ...]:
    chosen = config.get("pooling_mode")  # older versions have a switch for each pooling
    if chosen is None:
        on = [key for key in config if key.startswith("pooling_mode_") and config[key]]
        chosen = [OLD_POOLINGS.get(key, key) for key in sorted(on, key=[*OLD_POOLINGS, *on].index)]
    chosen = [chosen] if isinstance(chosen, str) else list(chosen)
    if not chosen or not set(chosen) <= set(POOLINGS):
        told = ", ".join(map(str, chosen)) or "none"
        raise refused(directory, modules, f"has the pooling {told}; fastprune supports {', '.join(POOLINGS)}")
    return chosen[0] if len(chosen) == 1 else tuple(chosen)


def _dense(folder: Path, config: dict[str, Any]) -> nn.Module:
    """A dense layer with its activation, and a residual connection if it has one; not trainable.

    Raises:
        ModelError: Its files cannot be read, or the activation function is not of torch.
    """
    from torch import nn  # imported here because it takes seconds

    from fastprune.data.activations import activation_named

    class Dense(nn.Module):
        """A dense layer in sentence-transformers' names."""

        def __init__(self) -> None:
            super().__init__()
            inputs, outputs = int(config["in_features"]), int(config["out_features"])
            self.linear = nn.Linear(inputs, outputs, bias=bool(config.get("bias", True)))
            self.activation = activation_named(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
            self.adds = bool(config.get("use_residual", False))
            if self.adds and inputs != outputs:
                self.residual = nn.Linear(inputs, outputs, bias=False)

        def forward(self, vectors: Tensor) -> Tensor:
            projected: Tensor = self.activation(self.linear(vectors))  # [samples, out_features]
            return projected + getattr(self, "residual", nn.Identity())(vectors) if self.adds else projected

    try:
        layer = Dense()
        layer.load_state_dict(_weights(folder))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"The dense layer in {folder} cannot be read: {reason}") from error
    return layer.requires_grad_(False).eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    if (folder / "model.safetensors").exists():
        return dict(load_file(folder / "model.safetensors"))
    return dict(torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True))
