"""What judges judge by: offline judges by features of a pair, LLM judges by texts that are looked up for it."""
