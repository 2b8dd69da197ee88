"""Output constraints: losses that only hold logits."""
