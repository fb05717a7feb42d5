"""Who does the work of flows: processes here, on a cluster, or under torchrun; their turns and their ends."""
