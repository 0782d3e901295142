-- Adds the columns that the lock table of an earlier version lacks. Only its owner may, the role of the syncs.
-- Effect: adds what is missing, changes nothing that exists.

{% for column, type in columns_of_version.items() -%}
ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS {{ column }} {{ type }};

{% endfor -%}
