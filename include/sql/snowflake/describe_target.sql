-- Reads the columns of the target, with their types and masking policies.

DESCRIBE TABLE {{ sync.dataset.target }};
