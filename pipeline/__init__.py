"""From the SDSS archive to per-object image sequences: a plain library, free of orchestrator and network.

The modules are the way of the data, in order: catalog → exposures → plan → archive → frames →
calibrate → thumbnails → sequences → manifest.
"""
