-- Takes away all that setup_live.sql has created, with what is in it.

USE ROLE sysadmin;

DROP DATABASE IF EXISTS data_share_live;

DROP WAREHOUSE IF EXISTS live_wh;

USE ROLE useradmin;

DROP USER IF EXISTS data_share_live;

DROP ROLE IF EXISTS data_share_live_other;

DROP ROLE IF EXISTS data_share_live;
