-- Finds the policies of the target: DESCRIBE names the masking policies that are set on its columns, and the plan of a
-- query shows whether it has a row access policy. Changes nothing, and needs no warehouse.

DESCRIBE TABLE {{ dataset.target }};

EXPLAIN SELECT * FROM {{ dataset.target }};
