"""What is pruned on the simulated accelerator."""

CASES = {
    "paper": ("paper", "bert", "ForSequenceClassification"),
    "fast": ("fast", "bert", "ForSequenceClassification"),
    "default": ("default", "bert", "ForSequenceClassification"),
    "best": ("best", "bert", "ForSequenceClassification"),
    "kprune": ("kprune", "bert", "ForSequenceClassification"),
    "Conv1D": ("fast", "gpt2", "ForCausalLM"),
    "groups of queries": ("default", "llama", "ForCausalLM"),
    "a shared bias": ("fast", "t5", "ForConditionalGeneration"),
    "experts": ("fast", "mixtral", "ForCausalLM"),
    "images": ("fast", "vit", "ForImageClassification"),
    "recordings": ("fast", "wav2vec2", "ForCTC"),
}
"""Preset, family and head by the name of the case."""
TWICE = ("paper", "fast", "default", "kprune")
"""Pruned on batches of two sizes, to see what grows with their number."""
