"""What surrounds the flows: server, set-up, recovery, status, and the names that people type."""
