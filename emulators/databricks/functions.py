"""Spark's functions that DuckDB lacks and sqlglot does not translate."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from sqlglot import exp
from sqlglot.errors import ParseError

USER_RAISED_EXCEPTION = re.compile(r"\[USER_RAISED_EXCEPTION\].* SQLSTATE: P0001", re.DOTALL)
"""Matches the message of RAISE_ERROR."""

_DIGITS = "0." + "#" * 38

MACROS = (
    # Only hexadecimal digits, at most 16.
    """
    CREATE MACRO conv(digits, from_base, to_base) AS
    CASE WHEN from_base = 16 AND to_base = 10 THEN CAST(CAST('0x' || NULLIF(digits, '') AS UBIGINT) AS VARCHAR)
    ELSE error('The sandbox knows CONV only from base 16 to base 10') END
    """,
    # Only decimals: all digits, without trailing zeros. DuckDB writes .5 for DECIMAL(1, 1), so add the zero.
    f"""
    CREATE MACRO format_number(number, pattern) AS
    CASE WHEN pattern <> '{_DIGITS}' OR typeof(number) NOT LIKE 'DECIMAL(%'
    THEN error('The sandbox knows FORMAT_NUMBER only of decimals and for {_DIGITS}')
    WHEN NOT contains(CAST(number AS VARCHAR), '.') THEN CAST(number AS VARCHAR)
    ELSE rtrim(rtrim(regexp_replace(CAST(number AS VARCHAR), '^(-?)[.]', '\\1' || '0.'), '0'), '.') END
    """,
    # Spark's TIMESTAMP has a time zone.
    "CREATE MACRO timestamp_micros(micros) AS make_timestamptz(CAST(micros AS BIGINT))",
    "CREATE MACRO raise_error(message) AS error('[USER_RAISED_EXCEPTION] ' || message || ' SQLSTATE: P0001')",
)


Secrets = Mapping[tuple[str, str], str]
"""Values of secrets by scope and key."""


class SecretError(Exception):
    """A secret cannot be used; the message is Databricks'."""


def with_secrets(query: exp.Expr, secrets: Secrets, command: str) -> exp.Expr:
    """
    Replace each AES_ENCRYPT of a secret by its result. Databricks accepts SECRET nowhere else in what writes.

    :param command: what Databricks calls the statement
    :raises SecretError: a secret is unknown, not constant, or not encrypted
    """
    for secret in list(query.find_all(exp.Secret)):
        call = secret.parent
        scope, key = secret.this, secret.expression
        for part, name in ((scope, "SCOPE"), (key, "KEY")):
            if not (isinstance(part, exp.Literal) and part.is_string):
                raise SecretError(
                    f"[INVALID_SECRET_LOOKUP.SECRET_FUNCTION_{name}_NOT_CONSTANT] Invalid secret lookup: The `SECRET` "
                    f"function requires the secret {name.lower()} as a constant string expression. SQLSTATE: 22531"
                )
        if not (isinstance(call, exp.Anonymous) and call.name.upper() == "AES_ENCRYPT"):
            raise SecretError(
                f"[SECRET_FUNCTION_INVALID_LOCATION] Cannot execute {command} command with one or more non-encrypted "
                "references to the SECRET function; please encrypt the result of each such function call with "
                "AES_ENCRYPT and try the command again SQLSTATE: 42K0E"
            )
        if (value := secrets.get((scope.name, key.name))) is None:
            raise SecretError(
                "[INVALID_SECRET_LOOKUP.SECRET_FUNCTION_LOOKUP_FAILED] Invalid secret lookup: The `SECRET` function "
                f"failed to find a secret with scope {scope.name} and key {key.name} SQLSTATE: 22531"
            )
        words = [word.name for word in call.expressions[1:] if isinstance(word, exp.Literal)]
        if call.expressions[0] is not secret or len(words) != 2 or words[1].upper() != "ECB":
            raise SecretError(
                "[UNSUPPORTED_FEATURE] The sandbox knows AES_ENCRYPT only of a SECRET, with a literal as the key, in "
                "the mode ECB. SQLSTATE: 0A000"
            )
        call.replace(exp.func("from_hex", exp.Literal.string(_aes_ecb(value.encode(), words[0].encode()).hex())))
    return query


def _aes_ecb(value: bytes, key: bytes) -> bytes:
    if len(key) not in (16, 24, 32):
        raise SecretError(
            "[INVALID_PARAMETER_VALUE.AES_KEY_LENGTH] The value of parameter(s) `key` in `aes_encrypt` is invalid: "
            f"expects a binary value with 16, 24 or 32 bytes, but got {len(key)} bytes. SQLSTATE: 22023"
        )
    padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(padder.update(value) + padder.finalize()) + encryptor.finalize()


def as_duckdb(query: exp.Expr) -> exp.Expr:
    """
    Translate functions that DuckDB has under other names.

    FROM_JSON and GET_JSON_OBJECT of a text that is no JSON are NULL. TO_JSON leaves out the fields of a struct that are
    NULL. ARRAY_CONTAINS is NULL if a NULL of the array may be the value. The function of ZIP_WITH has two arguments.
    """
    for json in reversed(list(query.find_all(exp.JSONFormat))):
        if isinstance(json.this, exp.Struct) and not json.args.get("options"):
            # A merge patch with NULL as a value removes the field.
            merged = exp.func("json_merge_patch", exp.Literal.string("{}"), exp.func("to_json", json.this.copy()))
            json.replace(exp.cast(merged, exp.DType.VARCHAR))
    for contains in reversed(list(query.find_all(exp.ArrayContains))):
        contains.replace(_contains_or_null(contains))
    for replaced in query.find_all(exp.RegexpReplace):
        # A group of the match is $1 in Java's patterns and \1 in DuckDB's.
        if isinstance(text := replaced.args.get("replacement"), exp.Literal) and text.is_string:
            text.replace(exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", text.name)))
    for formatted in query.find_all(exp.TimeToStr):
        _use_texts_in_format(formatted)
    for parsed in reversed(list(query.find_all(exp.FromJson))):
        schema = parsed.expression
        if not (isinstance(schema, exp.Literal) and schema.is_string):
            raise ParseError("The sandbox knows FROM_JSON only with a literal as the schema")
        kind = exp.DataType.build(schema.name, dialect="databricks")
        parsed.replace(exp.cast(_json_or_null(parsed.this), kind))
    for extracted in reversed(list(query.find_all(exp.JSONExtractScalar))):
        extracted.set("this", _json_or_null(extracted.this))
    # Innermost calls first: an outer call is replaced by a copy, which must contain the translated inner call.
    for call in reversed(list(query.find_all(exp.Anonymous))):
        if call.name.upper() == "ZIP_WITH" and len(call.expressions) == 3:
            left, right, function = call.expressions
            pair = exp.to_identifier(f"pair_of_{'_'.join(name.name for name in function.expressions)}")
            body = function.this.copy()
            for number, name in enumerate(function.expressions):  # sqlglot counts from 0
                part = exp.Bracket(this=pair.copy(), expressions=[exp.Literal.number(number)])
                for use in list(body.find_all(exp.Identifier)):
                    if use.name == name.name and not use.quoted and not isinstance(use.parent, exp.Column):
                        use.replace(part.copy()) if use is not body else None
            zipped = exp.func("list_zip", left.copy(), right.copy())
            call.replace(exp.func("list_transform", zipped, exp.Lambda(this=body, expressions=[pair])))
    return query


def _contains_or_null(contains: exp.ArrayContains) -> exp.Case:
    array, value = contains.this, contains.expression
    unknown = exp.or_(
        exp.Is(this=array.copy(), expression=exp.null()),
        exp.Is(this=value.copy(), expression=exp.null()),
        exp.LT(this=exp.func("list_count", array.copy()), expression=exp.func("len", array.copy())),
    )
    return (
        exp.Case()
        .when(exp.func("list_contains", array.copy(), value.copy()), exp.true())
        .when(unknown, exp.null())
        .else_(exp.false())
    )


def _use_texts_in_format(formatted: exp.TimeToStr) -> None:
    """Take the single quotes off the texts T and Z in a pattern of DATE_FORMAT, which sqlglot does not know."""
    pattern = formatted.args["format"]
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        raise ParseError("The sandbox knows DATE_FORMAT only with a literal as the pattern")
    without_texts = re.sub("'(T|%?[zZ])'", "", pattern.name)
    if re.search("[A-Za-z']", re.sub("%[A-Za-z](strict)?", "", without_texts)):
        raise ParseError(
            "The sandbox knows DATE_FORMAT only with yyyy, MM, dd, HH, mm, ss, SSSSSS and the texts 'T' and 'Z'"
        )
    pattern.replace(exp.Literal.string(re.sub("'(?:(T)|%?[zZ])'", lambda text: text[1] or "Z", pattern.name)))


def _json_or_null(text: exp.Expr) -> exp.Expr:
    valid = exp.func("json_valid", text.copy())
    return exp.Case(ifs=[exp.If(this=valid, true=exp.cast(text.copy(), exp.DType.JSON))])
