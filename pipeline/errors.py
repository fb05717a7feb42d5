"""Every error this package raises on purpose, in one place.

A message says what was expected, what was found, where, and what to do. The class says who has to
act: the user (`ConfigError`, `CatalogError`), the archive (`ArchiveError` and its children), its
authors (`RowsNotRead`), or nobody (`FrameError` becomes a counted skip of the dataset).
"""


class PipelineError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(PipelineError):
    """A survey description, a command-line value or a file name the user chose cannot be used."""


class CatalogError(PipelineError):
    """The object list as a whole cannot be used (missing column, too many bad rows)."""


class ExposureIndexError(PipelineError):
    """The exposure index cannot be read or does not say what it must."""


class LargeTransfer(PipelineError):
    """So much is to be fetched that the archive's keepers must be told first, and nobody said that they were."""


class ArchiveError(PipelineError):
    """An archive did not give what was asked for, after all retries."""


class NotInArchive(ArchiveError):
    """The server says that the file does not exist (404, 410)."""


class BadPayload(ArchiveError):
    """The server answered, but not with the file: an HTML page, a truncated body, a lie about its size."""


class ChangedUpstream(ArchiveError):
    """The server gives another file than it gave before under the same name."""


class FrameError(PipelineError):
    """A frame or one of its sidecars is corrupt, incomplete or contradicts its own name."""


class RowsNotRead(PipelineError):
    """Pixels are looked at that were not asked for when their frame was read: a mistake in this package."""


class WorkerDied(PipelineError):
    """A decoding process ended without an answer (killed, or out of memory)."""


class CellTimeout(PipelineError):
    """A cell took longer than anybody wants to wait for it."""


class ClusterError(PipelineError):
    """The workers of a cluster cannot be reached, or would not build the same dataset."""


class StorageError(PipelineError):
    """A disk is full, failing or not writable; whatever was whole on it still is."""


class SequenceError(PipelineError):
    """A per-object HDF5 file is missing, corrupt or not of the schema it claims."""


class DatasetError(PipelineError):
    """A dataset directory is missing, incomplete or contradicts its manifest."""


class BeingBuilt(DatasetError):
    """Another process builds a dataset of the same survey."""


class NewerSchema(DatasetError):
    """A dataset is of a schema version that only newer software reads."""


class ReportError(PipelineError):
    """A run or a truth folder that a report shall show is incomplete, not readable, or of another dataset."""


class PackError(PipelineError):
    """A packed dataset is missing, damaged, or of another dataset than it is used with."""


class PackOfAnother(PackError):
    """A pack is whole, but of another dataset or form than is wanted at its place."""
