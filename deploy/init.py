"""
The init service of docker-compose.yaml: creates Airflow's database, roles and users from the environment.

Safe to repeat: existing data stays; passwords and the backend's rights are set again. If anything fails, its exit code
keeps the other services from starting.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from werkzeug.security import check_password_hash

BACKEND_ROLE = "DataShareBackend"

# For each dataset's DAG: see it, start, follow and cancel runs. To start a run, Airflow requires edit on the DAG, which
# also allows to pause it; to cancel a run, edit on the run, which also allows to clear it.
DAG_RIGHTS = {
    "DAG:{dag_id}": ("can_read", "can_edit"),
    "DAG Run:{dag_id}": ("can_read", "can_create", "can_edit"),
}
# For the steps and the result. These rights apply to all DAGs that the role can read, which are those above.
SHARED_RIGHTS = {
    "DAG Runs": ("can_read",),
    "Task Instances": ("can_read",),
    "XComs": ("can_read",),
}


def migrate() -> None:
    """Create the tables, or migrate them to this version of Airflow."""
    subprocess.run(["airflow", "db", "migrate"], check=True)  # noqa: S607


def backend_rights() -> set[tuple[str, str]]:
    """Return all rights of the backend's role, as pairs of action and resource."""
    # The plugins folder is on sys.path once Airflow is imported.
    from data_share.dataset_files import read_datasets

    datasets, _ = read_datasets()
    rights = {(action, name) for name, actions in SHARED_RIGHTS.items() for action in actions}
    for dataset in datasets:
        for name, actions in DAG_RIGHTS.items():
            rights |= {(action, name.format(dag_id=dataset.dag_id)) for action in actions}
    return rights


def make_roles_and_users() -> None:
    """Create Airflow's own roles, the backend's role, and the two users."""
    with get_application_builder() as builder:
        manager = builder.sm
        builder.add_permissions(update_perms=True)
        manager.sync_roles()
        role = manager.add_role(BACKEND_ROLE)
        wanted = backend_rights()
        for permission in list(role.permissions):
            if (permission.action.name, permission.resource.name) not in wanted:
                manager.remove_permission_from_role(role, permission)
        for action, resource in sorted(wanted):
            manager.add_permission_to_role(role, manager.create_permission(action, resource))
        _user(manager, os.environ["ADMIN_USER"], os.environ["ADMIN_PASSWORD"], manager.find_role("Admin"))
        _user(manager, os.environ["BACKEND_USER"], os.environ["BACKEND_PASSWORD"], role)
        _say(f"users {os.environ['ADMIN_USER']} and {os.environ['BACKEND_USER']}; the latter has {len(wanted)} rights")


def _user(manager: Any, name: str, password: str, role: Any) -> None:
    user = manager.find_user(username=name)
    if user is None:
        manager.add_user(name, name, "-", f"{name}@data-share.invalid", role, password)
        return
    if not check_password_hash(user.password, password):
        manager.reset_password(user.id, password)
    user.roles = [role]
    user.active = True
    if not manager.update_user(user):
        raise RuntimeError(f"Airflow does not change the user {name}; see the reason above")


def set_job_id() -> None:
    """Set the Variable with the export job's id, if the environment has it."""
    from data_share.share import Share

    if job_id := os.environ.get("EXPORT_JOB_ID"):
        subprocess.run(["airflow", "variables", "set", Share().export_job_variable, job_id], check=True)  # noqa: S603, S607


def _say(text: str) -> None:
    sys.stdout.write(f"init: {text}\n")


if __name__ == "__main__":
    migrate()
    make_roles_and_users()
    set_job_id()
    _say("done")
