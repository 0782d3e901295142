-- Airflow's user.
-- After: `make keys` prints the ALTER USER statement that sets the public key. Without a key, nobody can sign in.
-- Effect: creates the user if it is missing, changes nothing that exists, also no key.

USE ROLE useradmin;

-- A service user has no password and cannot sign in to the web interface.
-- Without secondary roles, a session has only the rights of the loader, not those of roles that somebody grants the
-- user later.
CREATE USER IF NOT EXISTS data_share_loader
  TYPE = SERVICE -- noqa: CP02
  DEFAULT_ROLE = data_share_loader
  DEFAULT_SECONDARY_ROLES = ()
  DEFAULT_WAREHOUSE = load_wh
  DEFAULT_NAMESPACE = data_share.public
  COMMENT = 'Airflow, for the syncs of the data share; signs in with a key pair';

GRANT ROLE data_share_loader TO USER data_share_loader;
