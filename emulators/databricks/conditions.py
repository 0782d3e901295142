"""If/else condition tasks: how their operands are compared."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

_OF_TEXTS: dict[str, Callable[[Any, Any], bool]] = {"EQUAL_TO": operator.eq, "NOT_EQUAL": operator.ne}
_OF_NUMBERS: dict[str, Callable[[Any, Any], bool]] = {
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_OR_EQUAL": operator.ge,
    "LESS_THAN": operator.lt,
    "LESS_THAN_OR_EQUAL": operator.le,
}

OPERATORS = (*_OF_TEXTS, *_OF_NUMBERS)


class OperandError(Exception):
    """An operand is not a number, and the operator compares numbers."""


def outcome_of(op: str, left: str, right: str) -> str:
    """
    Return ``true`` or ``false``.

    EQUAL_TO and NOT_EQUAL compare texts, so ``12.0`` is not equal to ``12``; the other operators compare numbers.

    :raises OperandError: an operand is not a number, and must be one.
    """
    if compare := _OF_TEXTS.get(op):
        return str(compare(left, right)).lower()
    return str(_OF_NUMBERS[op](_number(left), _number(right))).lower()


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise OperandError(f"The operand '{text}' of the condition is not a number.") from error
    if not number.is_finite():
        raise OperandError(f"The operand '{text}' of the condition is not a number.")
    return number
