-- Airflow's user.
-- After: `make keys` prints the ALTER USER statement that sets the public key. Without a key, nobody can sign in.
-- Effect: creates the user if it is missing, changes nothing that exists, also no key.

USE ROLE useradmin;

-- A service user has no password and cannot sign in to the web interface.
-- Without secondary roles, a session has only the rights of the loader, not those of roles that somebody grants the
-- user later.
CREATE USER IF NOT EXISTS {{ share.loader_user }}
  TYPE = SERVICE -- noqa: CP02
  DEFAULT_ROLE = {{ share.loader_role }}
  DEFAULT_SECONDARY_ROLES = ()
  DEFAULT_WAREHOUSE = {{ share.warehouse }}
  DEFAULT_NAMESPACE = {{ share.database }}.{{ share.target_schema }}
  COMMENT = 'Airflow, for the syncs of the data share; signs in with a key pair';

GRANT ROLE {{ share.loader_role }} TO USER {{ share.loader_user }};
