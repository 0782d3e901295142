"""
Gives Airflow the plugin of a checkout.

If the wheel ``airflow-data-share`` is installed as well, Python finds that copy of the package first, because Airflow
puts the folder of plugins at the end of the path. Then the wheel's entry point gives Airflow the plugin, and this file
gives none: two would be one page and one set of listeners too many.
"""

from __future__ import annotations

import logging
from pathlib import Path

import data_share
from data_share.airflow_version import require_airflow

require_airflow()
_FOUND, _HERE = Path(data_share.__file__).resolve().parent, Path(__file__).resolve().parent

if _FOUND.parent == _HERE:
    from data_share.plugin import DataSharePlugin  # noqa: F401 - Airflow looks for the class in this module
else:
    logging.getLogger(__name__).warning(
        "Two copies of data_share: version %s in %s is used, the copy in %s is not. Remove one: uninstall "
        "airflow-data-share, or take data_share and data_share_plugin.py out of the folder of plugins.",
        data_share.__version__,
        _FOUND,
        _HERE,
    )
