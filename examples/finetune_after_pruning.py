"""Train a pruned model on, with transformers' Trainer: recover what a hard pruning lost.

python examples/finetune_after_pruning.py PRUNED TRAIN TEST OUTPUT [EPOCHS] [lora]

A pruned model trains like any other. With ``lora`` only adapters (peft) are trained, and merged at the end.
"""

import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import fastprune


def main(pruned: str, train: str, test: str, output: str, epochs: str = "1", lora: str = "") -> None:
    """Train and save; the metrics before and after."""
    opened = fastprune.open_pretrained(pruned, device="cpu")
    batches = fastprune.make_batches(train, opened.task, opened.tokenizer, samples=None)
    print("before", fastprune.evaluate(opened.model, test, tokenizer=opened.tokenizer))
    if lora:
        fit_adapters(opened.model, batches, float(epochs))
    else:
        fit(opened.model, batches, float(epochs), learning_rate=5e-5)
    print("after ", fastprune.evaluate(opened.model, test, tokenizer=opened.tokenizer))
    opened.save(output)  # opens with fastprune.load, and without fastprune


def fit(
    model: Any,
    batches: fastprune.Batches,
    epochs: float,
    *,
    learning_rate: float,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Fine-tune on the labels, the batches in another order each epoch."""
    data = [{name: value for name, value in batch.items() if name != "sample"} for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            per_device_train_batch_size=1,  # of our batches, which are padded already
            save_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=lambda rows: rows[0],
            callbacks=list(callbacks),
        )
        trainer.train()
    model.eval()


def fit_adapters(model: Any, batches: fastprune.Batches, epochs: float) -> None:
    """Train low-rank adapters of the narrower linears, then add them to the weights."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=8))
    fit(adapted, batches, epochs, learning_rate=5e-4)
    adapted.merge_and_unload()


class PruneAt(TrainerCallback):
    """Prunes the model that is being trained, at a step: dense until then, narrower after it.

    Its optimizer holds parameters that are gone then, so its state begins anew with those that are left.
    """

    def __init__(self, step: int, batches: fastprune.Batches, budget: float) -> None:
        self.step, self.batches, self.budget = step, batches, budget

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            fastprune.prune(model, self.batches, budget=self.budget, inplace=True, bench=False)
            model.train()
            optimizer = kwargs["optimizer"]
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["params"] = []
            optimizer.param_groups[0]["params"] = [each for each in model.parameters() if each.requires_grad]


if __name__ == "__main__":
    main(*sys.argv[1:])
