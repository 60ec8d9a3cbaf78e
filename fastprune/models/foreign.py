"""Foreign code: classes in Python files of the model's own directory, which run only with the user's consent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEY = "auto_map"
"""Entry of ``config.json`` with the class in the directory's files by Auto class, such as ``modeling_own.OwnModel``."""
MODULE = "modeling_fastprune"
"""Name of the modelling file of a pruned model, without its ending."""


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The directory's own classes by Auto class; for a pruned model those of its source. References are file.Class.

    Args:
        config: The contents of ``config.json``.
    """
    pruned = config.get("fastprune")
    found = (pruned if isinstance(pruned, Mapping) else config).get(KEY)
    if not isinstance(found, Mapping):
        return {}
    named = {str(auto): each for auto, each in found.items() if isinstance(each, str) and "." in each}
    return {auto: each for auto, each in named.items() if each.partition(".")[0] != MODULE}


def foreign_class(directory: Path, config: Mapping[str, Any], name: str, *, pools: bool = False) -> Any:
    """Run the directory's code and return its model class; None if it has no class of that name.

    Args:
        directory: The model's directory.
        config: The contents of its ``config.json``.
        name: Name of the class.
        pools: Take the class of ``AutoModel``, an encoder without a head, where there is one.

    Raises:
        ModelError: The code fails, or the file is missing.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    code = {auto: each for auto, each in code_of(config).items() if auto.startswith("AutoModel")}
    if pools and "AutoModel" in code:
        code = {"AutoModel": code["AutoModel"]}
        name = code["AutoModel"].rpartition(".")[2]
    for entry, reference in code.items():
        if reference.rpartition(".")[2] != name:
            continue
        try:
            found: type[PreTrainedModel] = get_class_from_dynamic_module(
                reference, str(directory), local_files_only=True
            )
        except Exception as error:  # any error of the code itself
            raise ModelError(f"The code of {directory}, {reference}, cannot be run: {error}") from error
        found.register_for_auto_class(entry)  # its files are then saved along
        return found
    return None


def untrusted_code(directory: Path, config: Mapping[str, Any]) -> ModelError:
    """The error for a model whose own code is needed, and not trusted."""
    files = ", ".join(
        sorted({f"{each.rpartition('.')[0].rpartition('--')[2]}.py" for each in code_of(config).values()})
    )
    return ModelError(
        f"{directory} needs code of its own ({files}), which runs only if you trust it. Read it, then give "
        "--trust-remote-code, or in Python open_pretrained(..., trust_remote_code=True) in place of the directory."
    )
