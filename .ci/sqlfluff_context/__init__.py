"""
What the SQL files can use when sqlfluff renders them: an example of a sync, and values that a step gives while it runs.

Only their shape matters here. How the files read with the real ones is tested in ``tests/include/test_sql.py``.
"""

from __future__ import annotations

from types import SimpleNamespace

from data_share import sql_files
from data_share.share import Share
from data_share.snowflake.policies import Samples
from data_share.snowflake.verification import Differences, compared_columns
from data_share.sync import Sync

sync = Sync.example()
share, identifier = Share(), sql_files.SQL_MACROS["identifier"]
columns_of_version = sql_files.COLUMNS_OF_VERSION
SQLFLUFF_JINJA_FILTERS = sql_files.SQL_FILTERS

# set_up_snowflake and clean_up_share
datasets = {"d": sync.dataset.model_copy(update={"columns": {"A": "VARCHAR", "B": "NUMBER(38, 0)"}})}
task = SimpleNamespace(target="d")
params = SimpleNamespace(keep_days=7)

# Files that a step renders itself.
table = "staging.d"
columns = {"A": "VARCHAR", "B": "NUMBER(38, 0)"}
condition = "a IS NOT NULL"
limit = 5
samples = Samples({"A": "VARCHAR", "B": "NUMBER(38, 0)"})
compared, _ = compared_columns({"A": "VARCHAR", "B": "NUMBER"}, sync.dataset)
same_rows = "source.value_0 = target.value_0"
found = Differences.of({"ROWS_DIFFERENT": 1, "ROWS_MISSING": 0, "ROWS_ADDED": 0, "DIFFERENT_1": 1}, compared)
