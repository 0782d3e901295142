"""
What the entry point of the wheel gives Airflow: the plugin, unless a checkout's copy of the package is found first.

That is so when ``PYTHONPATH`` names its folder of plugins. Then ``data_share_plugin.py`` in that folder gives Airflow
the plugin, and this module gives none.
"""

from __future__ import annotations

import logging

from data_share import __version__, package
from data_share.airflow_version import require_airflow

require_airflow()
PLUGIN = None
if package.IS_INSTALLED:
    from data_share.plugin import DataSharePlugin

    PLUGIN = DataSharePlugin
else:
    logging.getLogger(__name__).warning(
        "Two copies of data_share: version %s in %s is used, the installed airflow-data-share is not. Remove one.",
        __version__,
        package.PROJECT,
    )
