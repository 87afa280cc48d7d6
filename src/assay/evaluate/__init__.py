"""What a reward model is worth: suites with their official rules, intervals, and the baselines beside every figure."""
