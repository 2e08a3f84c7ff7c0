"""What several papers need: wiring, BatchNorm, hooks, the quantiser, pruning, the two loops, metrics and costs."""
