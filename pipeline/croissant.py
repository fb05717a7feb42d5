"""Croissant metadata of a dataset version: what search engines, catalogues and loaders read.

Format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from pipeline.columns import MEANINGS
from pipeline.manifest import FRAMES_SCHEMA, MANIFEST_SCHEMA, SKIPS_SCHEMA, DatasetInfo
from pipeline.naming import CARD_FILE, FRAMES_FILE, MANIFEST_FILE, OBJECTS_FOLDER, SKIPS_FILE
from pipeline.origin import SDSS_POLICY, origin_of
from pipeline.sequences import COLUMNS

CREATOR: Final = {"@type": "sc:Organization", "name": "stripe82-convention developers"}
"""As LICENSE has it: whose software made the dataset, out of whatever it is based on."""
SAKO_2018: Final = (
    "@article{Sako2018, author={{Sako}, M. and others}, title={The Data Release of the Sloan Digital Sky Survey-II "
    "Supernova Survey}, journal={PASP}, volume={130}, pages={064002}, year={2018}, doi={10.1088/1538-3873/aab4e0}}"
)
SOURCE: Final = {
    "@type": "sc:Dataset",
    "name": "SDSS imaging of Stripe 82",
    "url": "https://www.sdss.org/",
    "license": SDSS_POLICY,
    "creator": {"@type": "sc:Organization", "name": "Sloan Digital Sky Survey", "url": "https://www.sdss.org/"},
}
"""What was seen in the sky, and by whom."""
KEYWORD: Final = {True: "simulation", False: "SDSS"}
"""By whether it is simulated."""

_TABLES: Final = {
    MANIFEST_FILE: ("objects", MANIFEST_SCHEMA, "One record per object.", ("object_id",)),
    FRAMES_FILE: ("frames", FRAMES_SCHEMA, "One record per frame that thumbnails were cut from.", ("archive", "path")),
    SKIPS_FILE: ("skips", SKIPS_SCHEMA, "One record per thing that was left out, and why.", ()),
}
_ENCODINGS: Final = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".md": "text/markdown",
    ".txt": "text/plain",
}
_WORDS: Final = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _WORDS},
}


def croissant(info: DatasetInfo, files: Mapping[str, tuple[str, int]], *, date_published: str | None = None) -> str:
    """The text of `croissant.json` for one dataset version.

    Parameters
    ----------
    files
        sha256 and size in bytes of the dataset's files, by their path below its folder. The tables are described
        column by column; objects are described as one set, by pattern, and found with their sha256 in the manifest.
    date_published
        ISO 8601; left out where it is not given, so that the same dataset has the same bytes.
    """
    origin = origin_of(info)
    content: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": info.dataset_id,
        "description": _description(info),
        "url": CARD_FILE,
        "license": origin.licence_url,
        "citeAs": _citation(info),
        "creator": CREATOR,
        "keywords": ["astronomy", "time series", "images", "supernovae", "Stripe 82", KEYWORD[origin.simulated]],
        "version": f"{info.schema_version}.0.0+{info.dataset_id.rpartition('-')[2]}",
        "isLiveDataset": False,
        "distribution": [
            *(_file_object(name, *files[name]) for name in sorted(files) if "/" not in name),
            _object_files(),
        ],
        "recordSet": [_record_set(file) for file in _TABLES if file in files],
    }
    if not origin.simulated:
        content["isBasedOn"] = SOURCE
    if date_published is not None:
        content["datePublished"] = date_published
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _citation(info: DatasetInfo) -> str:
    """BibTeX: the dataset by its id, and for what was seen in the sky who saw it."""
    origin = origin_of(info)
    title = f"{info.survey.get('title', info.dataset_id)}, dataset {info.dataset_id}"
    note = f"{'simulated; ' if origin.simulated else ''}content hash {info.content_hash}"
    own = f"@misc{{{info.dataset_id}, author={{{{{CREATOR['name']}}}}}, title={{{title}}}, note={{{note}}}}}"
    return own if origin.simulated else f"{own}\n{SAKO_2018}"


def _description(info: DatasetInfo) -> str:
    counted = " and ".join(f"{info.counts[name]} {name}" for name in ("objects", "images") if name in info.counts)
    kind = "Simulated images" if origin_of(info).simulated else "Images"
    return (
        f"{info.survey.get('title', info.dataset_id)}: {counted}. {kind} of {info.size} x {info.size} px at "
        f"{info.pixel_scale_arcsec} arcsec/px, sky-subtracted and in nanomaggies, one per exposure and band, of all "
        f"images of an object on one North-up grid centred on it. Content hash: {info.content_hash}."
    )


def _file_object(name: str, sha256: str, n_bytes: int) -> dict[str, Any]:
    suffix = name[name.rfind(".") :] if "." in name else ""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{n_bytes} B",
        "encodingFormat": _ENCODINGS.get(suffix, "text/plain"),
        "sha256": sha256,
    }


def _object_files() -> dict[str, Any]:
    planes = "; ".join(
        f"{name}: {column.description}{f' [{column.unit}]' if column.unit else ''}" for name, column in COLUMNS.items()
    )
    return {
        "@type": "cr:FileSet",
        "@id": "object-files",
        "name": "object-files",
        "description": f"One HDF5 file per object, its images in time order. Datasets: {planes}.",
        "encodingFormat": "application/x-hdf5",
        "includes": f"{OBJECTS_FOLDER}/*/*.h5",
    }


def _record_set(file: str) -> dict[str, Any]:
    name, schema, description, key = _TABLES[file]
    record_set = {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": [_field(name, file, column) for column in schema],
    }
    if key:
        record_set["key"] = [{"@id": f"{name}/{column}"} for column in key]
    return record_set


def _field(record_set: str, file: str, column: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{column.name}",
        "name": column.name,
        "description": str(MEANINGS[file][column.name]),
        "dataType": _data_type(column.type),
        "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
