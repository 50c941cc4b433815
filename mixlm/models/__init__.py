"""Floor 1: networks. They read an `Example` and return hidden states and logits."""
