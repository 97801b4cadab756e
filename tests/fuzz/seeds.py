"""Where the fuzzer begins: bodies that are right, each in another way, and the words that they are made of."""

from pathlib import Path

_ID = b"01a20267-97ad-8199-a6a6-540000cf26ec"
_ORDER = b'{"productId":"%s","quantity":2}' % _ID
_DETAILED = (
    b'{"productId":"%s","quantity":2,"reference":"4711-\xc3\xa4","metadata":{"cart":"c:1","\\u00e9":"","k":null}}' % _ID
)
_LINES = b'{"lines":[{"productId":"%s","quantity":2},{"productId":"%s","quantity":3}],"reference":"a"}' % (
    _ID,
    _ID.replace(b"0", b"A"),
)
_STORED = (
    b'{"id":"%s","product_id":"%s","quantity":2,"unit_price":1500.00,"total_price":3000.00,'
    b'"created_at":"2026-01-02T03:04:05.678901Z","status":"PENDING"%s}'
)
_CONTEXT = (
    b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","request_hash":"00ff","client":"shop"'
)
_DETAILS = b',"reference":"4711","metadata":{"cart":"c:1","\\u00e9":""}'

SEEDS: dict[str, list[bytes]] = {
    "order_request": [
        _ORDER,
        _DETAILED,
        _DETAILED.replace(b"null", b'""'),
        _LINES,
        b' {"quantity": 1000000, "productId": "%s", "x": [1, {"y": null}]}\n' % _ID.upper(),
    ],
    "bulk_request": [b"j[" + _ORDER + b"," + _ORDER + b"]", b"n" + _ORDER + b"\n\n" + _LINES + b"\r\n"],
    "message": [b"[" + _STORED % (_ID, _ID, more) + b"]" for more in (b"", _CONTEXT, _DETAILS)],
    "product_request": [b'{"name":"L\\u00e4ptop","price":1500.50,"qty":3}', b'{"qty":null}', b'{"quantity":-1}'],
    "planted": [b"{}"],
}

_WORDS = (
    *('"productId"', '"quantity"', '"id"', '"product_id"', '"unit_price"', '"total_price"', '"created_at"', '"name"'),
    *(
        '"price"',
        '"qty"',
        '"client"',
        '"lines"',
        '"reference"',
        '"metadata"',
        "null",
        "true",
        "1e9",
        "-0",
        "1.0",
        "[[[[[[[[",
        "{",
        "}",
        "]",
        ":",
        ",",
        "NaN",
    ),
    *("\\ud800", "\\u0000", "\\xff", "\\xc0\\x80", "\\xef\\xbb\\xbf", "99999999999999999999", "01a20267-97ad-8199"),
)


def write_seeds(target: str, directory: Path) -> None:
    """The target's bodies, one a file."""
    directory.mkdir()
    for number, body in enumerate(SEEDS[target]):
        (directory / str(number)).write_bytes(body)


def write_dictionary(file: Path) -> None:
    """In libFuzzer's form: a quoted word a line, with its escapes."""
    quoted = (word.replace("\\u", "\\\\u").replace('"', '\\"') for word in _WORDS)
    file.write_text("".join(f'"{word}"\n' for word in quoted))
