"""ConvEntion on a dataset of image sequences: the network, its training in two steps, its evaluation.

Reads datasets through `pipeline.manifest`; knows neither the orchestrator nor astropy.
"""
