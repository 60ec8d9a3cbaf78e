"""Whole experts out of a small mixture: perplexity by criterion, with and without calibrated routers.

python tests/benchmarks/experts.py TRAIN TEST [--family mixtral] [--steps 300] [--model DIR]

A mixture of 8 experts and 4 layers is trained a little on the text TRAIN, with a tokenizer made of it, and is kept in DIR. A
quarter and a half of the experts are removed on windows of TRAIN; the perplexity is that of the beginning of TEST, at context 128.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

import fastprune

CONTEXT, VOCABULARY = 128, 2048
SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 24,
    "intermediate_size": 192,
    "moe_intermediate_size": 192,
    "shared_expert_intermediate_size": 96,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "router_aux_loss_coef": 0.02,
    "output_router_logits": True,
}
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


def trained(folder: Path, text: Path, family: str, steps: int) -> None:
    """Train the mixture, if the folder does not have it yet."""
    if folder.exists():
        return
    torch.manual_seed(0)
    bpe = ByteLevelBPETokenizer()
    bpe.train([str(text)], vocab_size=VOCABULARY, special_tokens=["<eos>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<eos>"
    )
    usual = transformers.CONFIG_MAPPING[family]()
    settings = {name: value for name, value in SIZES.items() if hasattr(usual, name)}
    settings |= {name: 8 for name in COUNTS if hasattr(usual, name)}
    config = transformers.AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **settings, eos_token_id=0, pad_token_id=0
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    ids = torch.tensor(tokenizer(text.read_text(encoding="utf-8"), verbose=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    start = time.perf_counter()
    for step in range(steps):
        places = torch.randint(len(ids) - CONTEXT, (16,))
        batch = torch.stack([ids[place : place + CONTEXT] for place in places])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.config.output_router_logits = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--family", default="mixtral")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--model", type=Path, default=Path("mixture"))
    parser.add_argument("--tokens", type=int, default=32_768, help="Tokens of TEST.")
    options = parser.parse_args()
    trained(options.model, options.train, options.family, options.steps)
    opened = fastprune.open_pretrained(options.model)
    reading = {"max_length": CONTEXT}
    data = fastprune.make_batches(options.train, opened.task, opened.tokenizer, samples=128, **reading)
    beginning = options.test.read_text(encoding="utf-8")[: 5 * options.tokens]
    ids = opened.tokenizer(beginning, verbose=False)["input_ids"][: options.tokens]
    test = [opened.tokenizer.decode(ids)]

    def perplexity(model: object) -> float:
        return fastprune.evaluate(model, test, tokenizer=opened.tokenizer, progress=False, **reading)["perplexity"]

    print(f"dense {perplexity(opened):.2f} (context {CONTEXT}, stride {CONTEXT}, {len(ids):,} tokens)")
    for keep in (0.75, 0.5):
        for by in ("damage", "reap", "magnitude", "random"):
            for calibrated in (False, True):
                found, start = [], time.perf_counter()
                for seed in range(3 if by == "random" else 1):
                    result = fastprune.drop_experts(
                        opened, data, keep=keep, by=by, calibrate_routers=calibrated, seed=seed, progress=False
                    )
                    found.append(perplexity(result.pretrained))
                told = f"{statistics.mean(found):8.2f}" + (
                    f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
                )
                seconds = time.perf_counter() - start
                print(f"{keep:5} {by:10} {'calibrated' if calibrated else '-':10} {told} {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
