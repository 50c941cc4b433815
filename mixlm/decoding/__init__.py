"""Floor 4: from a trained network to text: token by token, by diffusion, or span by span."""
