"""The frozen backbone, LoRA, the head, the budget and the packed pass."""
