"""One module per word; each has a click command called `command`."""
