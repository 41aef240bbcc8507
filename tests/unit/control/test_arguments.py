"""Arguments come from another process: each is checked by the operation that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.control.arguments import Arguments
from talos.control.failure import Failure, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

PEER = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"


def test_what_is_right_is_given() -> None:
    args = Arguments(
        {
            "t": "x", "l": ["a", "b"], "f": True, "n": 1.5, "c": 3, "d": "aGk=", "p": PEER,
            "a": ["/ip4/127.0.0.1/tcp/1"], "v": {"k": "v"},
        }
    )  # fmt: skip
    assert (args.text("t"), args.text("z", "y")) == ("x", "y")
    assert (args.texts("l"), args.texts("z")) == (("a", "b"), ())
    assert (args.flag("f"), args.flag("z")) == (True, False)
    assert (args.number("n"), args.number("z", 2, least=1)) == (1.5, 2)
    assert (args.count("c"), args.count("z", 4)) == (3, 4)
    assert args.data("d") == b"hi"
    assert str(args.peer("p")) == PEER
    assert [str(addr) for addr in args.addrs("a")] == ["/ip4/127.0.0.1/tcp/1"]
    assert (args.values("v"), args.values("z")) == ({"k": "v"}, {})
    assert (args.seconds(3), Arguments({}, deadline=1.0).seconds(3)) == (3, 1.0)


WRONG: list[tuple[Callable[[Arguments], object], object]] = [
    (lambda args: args.text("x"), 1),
    (lambda args: args.texts("x"), "text"),
    (lambda args: args.texts("x"), [1]),
    (lambda args: args.flag("x"), 1),
    (lambda args: args.number("x"), True),
    (lambda args: args.number("x"), "1"),
    (lambda args: args.number("x", most=2), 3),
    (lambda args: args.number("x", least=2), 1),
    (lambda args: args.number("x"), float("nan")),
    (lambda args: args.count("x"), 1.5),
    (lambda args: args.data("x"), "?"),
    (lambda args: args.peer("x"), "12D3KooWnobody"),
    (lambda args: args.addrs("x"), ["/ip4/300.1.1.1"]),
    (lambda args: args.values("x"), []),
]


@pytest.mark.parametrize(("read", "value"), WRONG)
def test_what_is_wrong_is_named(read: Callable[[Arguments], object], value: object) -> None:
    with pytest.raises(Failure, match="argument 'x'") as caught:
        read(Arguments({"x": value}))
    assert caught.value.code == "usage"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Failure, match="argument 'x' is missing"):
        Arguments({}).text("x")
    with pytest.raises(Failure, match="no input"):
        _ = Arguments({}).input


def test_a_code_that_has_no_exit_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="no exit"):
        Failure("nonsense", "x")
    assert Problem(code="refused", message="no").fields() == {
        "code": "refused", "exit": 3, "message": "no", "hint": None, "tried": [],
    }  # fmt: skip
