"""The vocabulary: tokens and their rows, removed from the tokenizer, the embedding and the head (docs/vocabulary.md)."""
