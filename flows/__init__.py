"""Prefect flows: the order of steps, retries, progress and what is recorded. No science in here.

Defaults that Prefect and torch must see before they are imported; a user's own setting always wins.
"""

import os

_DEFAULTS = {
    # The embedded server's first start creates its database and takes longer than the stock 20 s on a small machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A run that is not heard of is started again (`s82 server setup`): every half minute it says that it lives.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Old events, and logs and artifacts of runs that upkeep has removed, are the server's to clear away.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",
    # Pauses of a server, changed files and workers of other versions belong in the log of the run that met them.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,flows.crews.cluster",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # OpenMP threads that busy-wait for each other make a training step 80 times slower when other processes want
    # the cores (8.1 s against 0.1 s); waiting briefly costs nothing when they do not.
    "GOMP_SPINCOUNT": "1000",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
