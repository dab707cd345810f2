"""Store wrappers: each adds one behaviour to any adapter and delegates everything else."""
