"""The lab's tables again with well-trained sources: the CIFAR checkpoints of the evaluation data."""
