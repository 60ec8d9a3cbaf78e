"""Run by test_elsewhere.py in a Python that has no fastprune: opens saved models, and checks them against what they gave."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def check(folder: Path) -> str:
    """Everything that can be done with one saved model."""
    task = json.loads((folder / "task.json").read_text())
    expected = torch.load(folder / "expected.pt", weights_only=True)
    directory = str(folder / "model")
    model = getattr(transformers, task["auto"]).from_pretrained(directory, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    same(model, expected)
    model.save_pretrained(folder / "again")
    same(getattr(transformers, task["auto"]).from_pretrained(folder / "again", trust_remote_code=True), expected)
    half = getattr(transformers, task["auto"]).from_pretrained(directory, trust_remote_code=True, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    said = ["logits"]
    if "generated" in expected:
        inputs = expected["inputs"]
        generated = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert torch.equal(generated, expected["generated"])
        said.append("generate")
    if task["pipeline"]:
        pipe = transformers.pipeline(task["pipeline"], model=directory, tokenizer=tokenizer, trust_remote_code=True)
        found = pipe("the cat sat on the mat", **task["options"])
        assert close(found, task["found"]), (found, task["found"])
        said.append("pipeline")
    if "embeddings" in expected and importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(directory, trust_remote_code=True, device="cpu")
        vectors = encoder.encode(task["texts"], convert_to_tensor=True)
        torch.testing.assert_close(vectors, expected["embeddings"], rtol=0, atol=1e-6)
        said.append("sentence-transformers")
    return ", ".join(said)


def same(model: Any, expected: dict[str, Any]) -> None:
    """Bit for bit."""
    with torch.no_grad():
        assert torch.equal(model.eval()(**expected["inputs"])[0], expected["output"])


def close(one: Any, other: Any) -> bool:
    """Alike, numbers to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(*pair) for pair in zip(one, other, strict=True))
    return abs(one - other) < 1e-6 if isinstance(one, float) else one == other


if __name__ == "__main__":
    assert importlib.util.find_spec("fastprune") is None, "this Python has fastprune"
    found = {}
    for each in sorted(Path(sys.argv[1]).iterdir()):
        try:
            found[each.name] = check(each)
        except Exception as error:  # told by name, so that one failure does not hide the others
            found[each.name] = f"FAILED {type(error).__name__}: {error}"
    print(json.dumps(found))
