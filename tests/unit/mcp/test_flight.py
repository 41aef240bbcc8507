"""Requests in flight, and the errors that are owed for them."""

from __future__ import annotations

import json

import pytest

from talos.mcp.flight import Answer, Bucket, Code, Flight, OpenRequest, Reason, cancel_line, error_line
from talos.mcp.framing import inspect
from talos.mcp.limits import McpLimits


def request(raw: str, method: str = "tools/call") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{raw},"method":"{method}"}}'.encode()


def response(raw: str) -> bytes:
    return f'{{"jsonrpc":"2.0","id":{raw},"result":{{}}}}'.encode()


def opened(flight: Flight, raw: str, seq: int = 1, now: float = 0.0, method: str = "tools/call") -> None:
    flight.opened(inspect(request(raw, method)), seq, now)


def test_an_error_is_these_bytes() -> None:
    assert error_line(Code.LOST, "connection-lost", b'"a\\u0062"') == (
        b'{"jsonrpc":"2.0","id":"a\\u0062","error":{"code":5021,"message":"the session was lost",'
        b'"data":{"source":"talos","reason":"connection-lost","executed":"unknown"}}}'
    )
    assert error_line(Code.TOO_LARGE, Reason.TOO_LARGE, limit=9) == (
        b'{"jsonrpc":"2.0","error":{"code":4131,"message":"the message is too large for the tunnel",'
        b'"data":{"source":"talos","reason":"too-large","limit":9}}}'
    )


@pytest.mark.parametrize("code", Code)
def test_errors_are_json_and_keep_out_of_reserved_codes(code: Code) -> None:
    message = json.loads(error_line(code, 'odd "reason"\n', b"1.50", retryAfterMs=5))
    assert message["id"] == 1.5
    assert message["error"]["code"] == code > 0
    assert message["error"]["data"]["retryAfterMs"] == 5
    assert b"\n" not in error_line(code, 'odd "reason"\n')


def test_a_cancellation_names_the_request_as_it_was_written() -> None:
    line = cancel_line(b'"\\u0061"')
    assert b'"requestId":"\\u0061"' in line
    assert inspect(line).cancels == ("string", "a")


def test_an_answer_finds_its_request() -> None:
    flight = Flight(McpLimits())
    opened(flight, "1", seq=4, now=2.0)
    assert flight.open == flight.in_flight == 1
    answer = flight.answered(inspect(response("1.0")), 5.0)
    assert answer.request is not None
    assert (answer.request.seq, answer.waited, answer.late) == (4, 3.0, False)
    assert flight.open == 0
    assert flight.answered(inspect(response("1")), 6.0) == Answer(None)
    assert flight.answered(inspect(response('"1"')), 6.0) == Answer(None)
    assert flight.answered(inspect(response("null")), 6.0) == Answer(None)


def test_only_requests_with_an_id_are_followed() -> None:
    flight = Flight(McpLimits())
    for line in (b'{"method":"x"}', b'{"id":null,"method":"x"}', response("1"), b"garbage"):
        flight.opened(inspect(line), 1, 0.0)
    assert flight.open == 0


def test_an_id_used_again_counts_once_and_is_the_newer_one() -> None:
    flight = Flight(McpLimits())
    opened(flight, "1", seq=1)
    opened(flight, "1", seq=2)
    assert flight.open == 1
    answer = flight.answered(inspect(response("1")), 0.0)
    assert answer.request is not None
    assert answer.request.seq == 2


def test_requests_and_subscriptions_have_their_limits() -> None:
    flight = Flight(McpLimits(in_flight=2, subscriptions=1))
    call, listen = inspect(request("9")), inspect(request("9", "subscriptions/listen"))
    for raw in ("1", "2"):
        assert flight.admit(call) is None
        opened(flight, raw)
    assert flight.admit(call) is Reason.IN_FLIGHT
    assert flight.admit(listen) is None
    opened(flight, "3", method="subscriptions/listen")
    assert flight.admit(listen) is Reason.SUBSCRIPTIONS
    assert flight.admit(inspect(b'{"method":"x"}')) is None
    assert (flight.open, flight.in_flight) == (3, 2)
    flight.answered(inspect(response("1")), 0.0)
    assert flight.admit(call) is None


def test_a_cancelled_request_leaves_the_count_at_once() -> None:
    flight = Flight(McpLimits(in_flight=1))
    opened(flight, "1")
    flight.cancelled(("number", 1))
    flight.cancelled(("number", 1))
    flight.cancelled(("number", 2))
    flight.cancelled(None)
    assert flight.open == 0
    assert flight.admit(inspect(request("2"))) is None
    assert flight.owed(Code.LOST, "x") == []
    opened(flight, "3")
    flight.cancelled(("number", 3))
    answer = flight.answered(inspect(response("3")), 0.0)
    assert answer.request is not None
    assert answer.request.cancelled
    assert flight.open == 0


def test_everybody_is_owed_an_answer() -> None:
    flight = Flight(McpLimits())
    opened(flight, "1")
    opened(flight, '"b"', method="subscriptions/listen")
    owed = flight.owed(Code.LOST, Reason.SERVER_EXITED)
    assert [(each.id_raw, inspect(line).id_raw) for each, line in owed] == [(b"1", b"1"), (b'"b"', b'"b"')]
    assert flight.open == 0
    assert flight.owed(Code.LOST, "again") == []
    assert flight.answered(inspect(response("1")), 0.0) == Answer(None, late=True)
    assert flight.answered(inspect(response("1")), 0.0) == Answer(None)


def test_an_id_that_is_used_again_is_not_late() -> None:
    flight = Flight(McpLimits())
    opened(flight, "1")
    flight.owed(Code.LOST, "x")
    opened(flight, "1", seq=7)
    assert flight.answered(inspect(response("1")), 0.0).request is not None


def test_tables_are_bounded() -> None:
    flight = Flight(McpLimits(in_flight=2, subscriptions=1, answered_ids=3))
    for number in range(20):
        opened(flight, str(number))
    assert flight.open == 6
    assert [each.id_raw for each, _ in flight.owed(Code.LOST, "x")] == [b"14", b"15", b"16", b"17", b"18", b"19"]
    late = [number for number in range(20) if flight.answered(inspect(response(str(number))), 0.0).late]
    assert late == [17, 18, 19]


def test_cancelled_requests_are_bounded_too() -> None:
    flight = Flight(McpLimits(in_flight=2, subscriptions=1))
    for number in range(100):
        opened(flight, str(number))
        flight.cancelled(("number", number))
    assert len(flight._requests) == 6


def test_calls_have_a_time() -> None:
    flight = Flight(McpLimits(call_timeout=10))
    assert flight.next_deadline() is None
    opened(flight, "0", now=0.0, method="subscriptions/listen")
    opened(flight, "1", now=1.0)
    opened(flight, "2", now=2.0)
    opened(flight, "3", now=2.5)
    flight.cancelled(("number", 1))
    assert flight.next_deadline() == 12.0
    assert flight.overdue(11.9) == []
    (late,) = flight.overdue(12.0)
    assert isinstance(late, OpenRequest)
    flight.close_one(late)
    assert flight.next_deadline() == 12.5
    assert flight.answered(inspect(response("2")), 13.0).late
    unbounded = Flight(McpLimits())
    opened(unbounded, "1")
    assert unbounded.next_deadline() is None
    assert unbounded.overdue(1e9) == []


def test_a_bucket_says_how_long_to_wait() -> None:
    bucket = Bucket(2.0, 3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0.0
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert Bucket(None, None, 0.0).take(0.0) == 0.0
    slow = Bucket(0.5, None, 0.0)
    assert [slow.take(0.0), slow.take(0.0)] == [0.0, 2.0]
    assert [Bucket(2.0, None, 0.0).take(0.0)] == [0.0]
