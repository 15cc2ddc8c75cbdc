"""The program's side: a bare interpreter that loads the program and answers calls of its functions.

The text of this file is handed to `python -I -S -B -c`, so it imports built-in modules only; the
first lines of the other side's work, the codec of plain values, are here for the same reason. The
program shares this interpreter and may do with it what it likes: all that leaves it is the bytes of
plain values, and no more trust is put in them than in any other answer.

A frame is the length of its content in 16 hex digits, and then the content, one encoded tuple.
Requests are (name, positional arguments, named arguments); replies are ("started",) before the
program's first line, ("loaded",) after its last one, ("value", value) or ("raised", type, text).
"""

import os
import sys
from importlib.machinery import SourceFileLoader

PROGRAM = "program.py"
REQUESTS, REPLIES = 3, 4  # file descriptors

_HEADER = 16
_LONGEST = 2000  # characters of an error's text; a pipe takes them even if nobody reads
_CONTAINERS = {"t": tuple, "l": list, "s": set, "z": frozenset}
_CONSTANTS = {b"n": None, b"y": True, b"x": False}


def encode(value):
    """Bytes of a plain value; an instance of a subclass is sent as what it is a subclass of.

    Raises:
      TypeError: it is, or holds, something else than None, bool, int, float, complex, str, bytes,
        tuple, list, set, frozenset and dict.
    """
    if value is None or isinstance(value, bool):
        return next(tag for tag, constant in _CONSTANTS.items() if constant is value)
    if isinstance(value, int):
        return _text("i", int.__format__(value, "x"))
    if isinstance(value, float):
        return _text("f", float.hex(value))
    if isinstance(value, complex):
        return _text("c", f"{float.hex(value.real)} {float.hex(value.imag)}")
    if isinstance(value, str):
        return _text("u", value)
    if isinstance(value, (bytes, bytearray)):
        return _text("b", bytes(value).hex())
    if isinstance(value, dict):
        return _items("d", [part for pair in dict.items(value) for part in pair])
    for tag, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return _items(tag, list(kind.__iter__(value)))
    raise TypeError(f"a value of type {type(value).__name__} cannot leave its process")


def decode(data):
    """The value of bytes that `encode` made, equal in every part and type.

    Raises:
      ValueError, TypeError, IndexError, RecursionError: the bytes are not such.
    """
    value, end = _decode(data, 0)
    if end != len(data):
        raise ValueError("more bytes than one value has")
    return value


def _text(tag, text):
    data = text.encode("utf-8", "surrogatepass")
    return b"%s%d:%s" % (tag.encode(), len(data), data)


def _items(tag, items):
    return b"%s%d:%s" % (tag.encode(), len(items), b"".join(map(encode, items)))


def _decode(data, start):
    tag = data[start : start + 1]
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], start + 1
    colon = data.index(b":", start, start + _HEADER)
    count, start = int(data[start + 1 : colon]), colon + 1
    kind = tag.decode()
    if kind == "d" or kind in _CONTAINERS:
        items = []
        for _ in range(count):
            item, start = _decode(data, start)
            items.append(item)
        if kind == "d":
            return dict(zip(items[::2], items[1::2], strict=True)), start
        return _CONTAINERS[kind](items), start
    if count > len(data) - start:
        raise ValueError("fewer bytes than the value has")
    text = data[start : start + count].decode("utf-8", "surrogatepass")
    return _scalar(kind, text), start + count


def _scalar(kind, text):
    if kind == "i":
        return int(text, 16)
    if kind == "f":
        return float.fromhex(text)
    if kind == "c":
        return complex(*map(float.fromhex, text.split(" ")))
    if kind == "b":
        return bytes.fromhex(text)
    if kind == "u":
        return text
    raise ValueError(f"no kind of value is written {kind!r}")


def send(file, content):
    """Write one frame of encoded content."""
    data = b"%0*x" % (_HEADER, len(content)) + content
    while data:
        data = data[os.write(file, data) :]


def receive(file, most):
    """Read one frame of at most so many bytes.

    Raises:
      EOFError: the other side has closed.
      ValueError: the frame is longer, or none.
    """
    length = int(_read(file, _HEADER), 16)
    if not 0 <= length <= most:
        raise ValueError(f"an answer of {length} bytes; at most {most} are taken")
    return decode(_read(file, length))


def _read(file, length):
    parts = []
    while length:
        part = os.read(file, min(length, 1 << 20))
        if not part:
            raise EOFError("the program has ended")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def serve(kind):
    """Load the program as `kind`, its module's name, and answer calls until there are no more."""
    send(REPLIES, encode(("started",)))
    module = type(sys)(kind)
    module.__file__ = PROGRAM
    sys.modules[kind], sys.argv = module, [PROGRAM]
    try:
        SourceFileLoader(kind, PROGRAM).exec_module(module)
    except BaseException as error:
        send(REPLIES, _raised(error))
        raise
    send(REPLIES, encode(("loaded",)))
    while kind != "__main__":
        try:
            name, positional, named = receive(REQUESTS, sys.maxsize)
        except EOFError:  # the tests are over
            return
        try:
            reply = encode(("value", getattr(module, name)(*positional, **named)))
        except BaseException as error:
            reply = _raised(error)
        send(REPLIES, reply)


def _raised(error):
    try:
        text = str(error)[:_LONGEST]
    except BaseException:
        text = ""
    return encode(("raised", type(error).__name__, text))
