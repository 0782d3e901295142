"""
The lineage of a sync, for Airflow's OpenLineage provider: which table, files and columns have become which.

The provider is optional: only it calls these functions, and only where it is installed and turned on. A step that ends
in the triggerer sends no event (Airflow 3.3), so ``publish`` sends two: one for the export that ``wait_for_export``
followed, from the table to the files, and its own, from the files to the target. The steps between them say nothing:
their tables are gone after the sync.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from data_share import __version__
from data_share.datasets import Dataset
from data_share.sql_text import folded
from data_share.steps import WAIT_FOR_EXPORT

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import DatasetFacet

    _Lineage = OperatorLineage[Any, Any]

# OpenLineage wants a URI of whoever makes an event.
_PRODUCER = f"urn:airflow-data-share:{__version__}"


class Moved(NamedTuple):
    """
    What a publish has moved, for its lineage.

    :param dataset: what was synced
    :param row: the row of the ledger, and ``files_exported``
    :param workspace: host of the Databricks workspace; empty if the export of an earlier sync was loaded
    :param account: the Snowflake account, as OpenLineage's naming has it
    :param target: stored names of the target's database, schema and table
    :param exported: types of the exported columns, by name
    :param loaded: kinds of the target's columns, by stored name
    """

    dataset: Dataset
    row: Mapping[str, Any]
    workspace: str
    account: str
    target: Sequence[str]
    exported: Mapping[str, str]
    loaded: Mapping[str, str]


def is_on() -> bool:
    """Return whether the provider is installed and turned on."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return False
    return not conf.is_disabled()


def nothing() -> _Lineage:
    """Return that a step has nothing to say. Without an answer, the provider would ask Snowflake for each query."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage()


def read_only(dataset: Dataset, workspace: str, version: Any = None) -> _Lineage:
    """
    Return that a step reads the source and has written nothing.

    Without it, the provider would name the source by the step's inlet, which has no workspace.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(inputs=[_source(dataset, workspace, {}, version)] if workspace else [])


def published(moved: Moved, ti: Any) -> _Lineage:
    """
    Send the event of the export, and return the lineage of ``publish``.

    :param ti: the attempt of ``publish``
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    # Without a workspace, the event was sent by the sync that exported.
    if moved.workspace:
        _send_export(moved, ti)
    return OperatorLineage(inputs=[_loaded_files(moved)], outputs=[_target(moved)])


def _source(dataset: Dataset, workspace: str, columns: Mapping[str, str], version: Any) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset

    name = dataset.source_table.replace("`", "")
    return InputDataset(f"databricks://{workspace}", name, facets=_facets(columns, version))


def _loaded_files(moved: Moved) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset

    namespace, name, version = _files(moved)
    read = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(rowCount=_count(moved, "rows_loaded"))
    return InputDataset(namespace, name, facets=_facets(moved.exported, version), inputFacets={"inputStatistics": read})


def _target(moved: Moved) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    namespace, name, _ = _files(moved)
    files = {folded(column): column for column in moved.exported}
    # COPY INTO matches names without minding their case.
    origins = {column: (namespace, name, files.get(folded(column), column), False) for column in moved.loaded}
    changed = [_count(moved, f"rows_{change}") for change in ("inserted", "updated")]
    written = None if None in changed else sum(count or 0 for count in changed)
    return OutputDataset(
        f"snowflake://{moved.account}",
        ".".join(moved.target),
        facets={**_facets(moved.loaded), "columnLineage": _column_lineage(origins)},
        outputFacets={
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=written)
        },
    )


def _send_export(moved: Moved, ti: Any) -> None:
    from airflow.providers.openlineage.api import emit
    from airflow.providers.openlineage.plugins import macros
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import output_statistics_output_dataset, parent_run
    from openlineage.client.uuid import generate_static_uuid

    source = _source(moved.dataset, moved.workspace, moved.exported, moved.row.get("source_version"))
    namespace, name, version = _files(moved)
    origins = {
        column: (source.namespace, source.name, original, is_hashed)
        for column, original, is_hashed in _names_at_the_source(moved)
    }
    written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=_count(moved, "rows_exported"),
        size=_count(moved, "bytes_exported"),
        fileCount=_count(moved, "files_exported"),
    )
    files = OutputDataset(
        namespace,
        name,
        facets={**_facets(moved.exported, version), "columnLineage": _column_lineage(origins)},
        outputFacets={"outputStatistics": written},
    )
    job = f"{ti.dag_id}.{WAIT_FOR_EXPORT.id}"
    # The same for each attempt of publish, so that a repeated event is the same event.
    run = generate_static_uuid(datetime.fromtimestamp(0, UTC), f"{job} {moved.row['export_path']}".encode())
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=macros.lineage_root_run_id(ti)),
        job=parent_run.Job(
            namespace=macros.lineage_root_job_namespace(ti),
            name=macros.lineage_root_job_name(ti),
        ),
    )
    emit(
        RunEvent(
            eventType=RunState.COMPLETE,
            eventTime=datetime.now(UTC).isoformat(),
            run=Run(str(run), facets={"parent": parent}),
            job=Job(macros.lineage_job_namespace(), job),  # type: ignore[no-untyped-call]
            inputs=[source],
            outputs=[files],
            producer=_PRODUCER,
        )
    )


def _files(moved: Moved) -> tuple[str, str, str]:
    """
    Return namespace, name and version of the exported files.

    The name is the folder of the dataset, which is the same for each sync; the folder of this export in it is the
    version. Else each sync would add a dataset to the catalogue.
    """
    path = urlsplit(str(moved.row["export_path"]))
    *folder, run_key, attempt = path.path.strip("/").split("/")
    return f"s3://{path.netloc}", "/".join(folder), f"{run_key}/{attempt}"


def _names_at_the_source(moved: Moved) -> Iterator[tuple[str, str, bool]]:
    """Yield the name of each exported column, its name at the source, and whether its values were hashed."""
    # Names of the file; a column that it does not name is exported as it is.
    choices = {folded(choice["alias"]): choice for choice in moved.dataset.source.parameter().get("columns", ())}
    for column in moved.exported:
        choice = choices.get(folded(column), {"name": column, "how": "kept"})
        yield column, choice["name"], choice["how"] == "hashed"


def _facets(columns: Mapping[str, str], version: Any = None) -> dict[str, DatasetFacet]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    facets: dict[str, DatasetFacet] = {}
    if columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns.items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(version))
    return facets


def _column_lineage(origins: Mapping[str, tuple[str, str, str, bool]]) -> DatasetFacet:
    from openlineage.client.facet_v2 import column_lineage_dataset as facet

    return facet.ColumnLineageDatasetFacet(
        fields={
            column: facet.Fields(
                inputFields=[
                    facet.InputField(
                        namespace,
                        name,
                        field,
                        transformations=[
                            facet.Transformation(
                                type="DIRECT", subtype="TRANSFORMATION" if is_hashed else "IDENTITY", masking=is_hashed
                            )
                        ],
                    )
                ]
            )
            for column, (namespace, name, field, is_hashed) in origins.items()
        }
    )


def _count(moved: Moved, name: str) -> int | None:
    # The ledger of an earlier version lacks some of them.
    value = moved.row.get(name)
    return None if value is None else int(value)
