-- Shows whether the target has a row access policy: DESCRIBE TABLE does not show it, the plan of a query does.
-- Effect: changes nothing, and needs no warehouse.

EXPLAIN SELECT * FROM {{ sync.dataset.target }};
