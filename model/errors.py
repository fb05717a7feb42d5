"""Every error that training and evaluation raise on purpose. A dataset that cannot be used is a `DatasetError`."""

from pipeline.errors import PipelineError


class ModelError(PipelineError):
    """Base of all errors that this package raises on purpose."""


class ModelConfigError(ModelError):
    """A preset, or a key of a model, training or run configuration, cannot be used."""


class RunError(ModelError):
    """A run directory is missing, incomplete, or belongs to another dataset or configuration."""


class TrainingError(ModelError):
    """Training went wrong (the loss is not finite)."""


class WeightsError(ModelError):
    """A weight file is missing, damaged, too large, or does not fit the network it claims to be."""
