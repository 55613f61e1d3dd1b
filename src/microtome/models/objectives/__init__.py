"""How logits are held against a target: losses, and what the logits say in the target's own terms."""
