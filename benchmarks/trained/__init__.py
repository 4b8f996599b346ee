"""The lab's tables again with well-trained sources: the CIFAR-10 checkpoints of the evaluation data."""
