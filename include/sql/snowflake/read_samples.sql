-- Writes sample values of columns that the target gets from this sync, and counts those that are read back unchanged.

{% include 'write_samples.sql' %}

SELECT {{ samples.counts }}
FROM {{ sync.new_staging_samples }};
