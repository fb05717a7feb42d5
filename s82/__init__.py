"""The command line `s82`: one word per file, the same functions underneath as the flows."""
