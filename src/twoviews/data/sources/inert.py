"""CIFAR's pickles as inert values. They are read as text is: nothing that they name is imported or called."""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twoviews.errors import DataError, RefusedError

_MOST_STEPS = 1 << 21  # CIFAR-100's largest file takes 0.3 million


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that a pickle would import."""

    path: str


@dataclass(frozen=True, slots=True)
class _Type:
    """A numpy type by its code, as "u1"."""

    code: str


@dataclass(slots=True, eq=False)
class Bytes:
    """A numpy array of bytes, before and after its contents are known."""

    shape: tuple[int, ...] = ()
    raw: str = ""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
# fmt: off
_VALUES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
))
# fmt: on
_IMPORTS = frozenset(
    (
        *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"),
        *("numpy ndarray", "numpy dtype", "_codecs encode"),
    )
)


def read_inert(data: bytes, what: str) -> dict[str, Any]:
    """The dict that a pickle describes: numbers, texts, lists and `Bytes`. Nothing in it is run.

    Bytes are texts of the same codes (latin-1), as Python 2's were: converting them would let a few bytes of a
    hostile file make many large copies.
    """
    try:
        found = _interpret(data, what)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return found
    except (ValueError, IndexError, KeyError, Warning) as error:  # pickletools warns of wrong escapes in names
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{what} is no file of CIFAR's python version, or cut short: {reason}") from error


def _interpret(data: bytes, what: str) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    argument: Any
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if step > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS:,} steps")
        if name in _VALUES:
            stack.append(argument.decode("latin-1") if isinstance(argument, bytes) else argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("LIST", "TUPLE", "DICT"):
            taken = since_mark()
            stack.append(_filled({}, taken) if name == "DICT" else list(taken) if name == "LIST" else tuple(taken))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(reversed([stack.pop() for _ in range(int(name[-1]))])))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            one = {"APPEND": 1, "SETITEM": 2}.get(name)
            taken = since_mark() if one is None else list(reversed([stack.pop() for _ in range(one)]))
            _filled(stack[-1], taken)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            path = argument if name == "GLOBAL" else " ".join(map(_text, reversed((stack.pop(), stack.pop()))))
            if path not in _IMPORTS:
                raise _refused(what, f"asks for {path.replace(' ', '.')[:80]!r}")
            stack.append(_Name(path))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_described(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            _built(stack[-1], state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _refused(what, f"uses the pickle opcode {name}")
    return stack.pop()


def _refused(what: str, does: str) -> RefusedError:
    return RefusedError(f"{what} {does}, which no file of CIFAR needs and which could run code: get the archive anew")


def _filled(target: Any, taken: list[Any]) -> Any:
    if type(target) is list:
        target.extend(taken)
    elif type(target) is not dict or len(taken) % 2 or not all(type(k) in (str, int) for k in taken[::2]):
        raise ValueError(f"items for a {type(target).__name__}")
    else:
        target.update(zip(taken[::2], taken[1::2], strict=True))
    return target


def _described(called: Any, arguments: Any) -> Any:
    """What the calls of a pickled array would give: text, a type, an array without contents yet."""
    path = called.path if isinstance(called, _Name) else ""
    if type(arguments) is not tuple or not arguments:
        raise ValueError("a call without arguments")
    if path == "_codecs encode" and arguments[1:] == ("latin1",):
        return _text(arguments[0])
    if path == "numpy dtype":
        return _Type(_text(arguments[0]))
    if path.endswith("_reconstruct") and arguments[0] == _Name("numpy ndarray"):
        return Bytes()
    raise ValueError(f"a call of {path or type(called).__name__}")


def _built(target: Any, state: Any) -> None:
    if isinstance(target, _Type):  # byte order and alignment, which bytes do not have
        return
    if not isinstance(target, Bytes) or type(state) is not tuple or len(state) != 5:
        raise ValueError(f"contents for a {type(target).__name__}")
    _, shape, kind, fortran, raw = state
    if kind != _Type("u1") or fortran or type(shape) is not tuple or not all(type(n) is int for n in shape):
        raise ValueError("an array that is not of bytes, row by row")
    target.shape = shape
    target.raw = _text(raw)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"a {type(value).__name__} where a text belongs")
    return value
