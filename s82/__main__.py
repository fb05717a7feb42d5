"""`python -m s82`, and so `torchrun --nproc-per-node 4 -m s82 train …`."""

from s82.main import entry

entry()
