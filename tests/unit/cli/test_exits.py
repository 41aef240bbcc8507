"""The one table of codes and exits."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import talos
from talos.abc import StreamReset
from talos.addr import parse
from talos.cli.exits import CODES, OF_CLASS, Failure, problem_of
from talos.errors import (
    AuditError,
    BadSignature,
    ConfigError,
    DialError,
    HandshakeError,
    HomeInUse,
    LimitExceeded,
    ListenError,
    MessageTooLarge,
    NegotiationError,
    NotSupported,
    PeerNotFound,
    ProofInvalid,
    RecordRejected,
    RefusedByGate,
    RemoteProtocolError,
    RoutingError,
    TalosError,
    WalletError,
)


def tree(root: type[TalosError]) -> set[type[TalosError]]:
    return {root, *(kind for child in root.__subclasses__() for kind in tree(child))}


def test_no_class_is_left_out() -> None:
    for found in pkgutil.walk_packages(talos.__path__, "talos."):
        if not found.name.startswith(("talos.testing", "talos.__main__")):
            importlib.import_module(found.name)
    classes = {kind for kind in tree(TalosError) if kind.__module__.startswith("talos.")}
    drawn = {kind.__name__ for kind in classes if kind.__module__ in ("talos.errors", "talos.abc")}
    assert OF_CLASS.keys() == drawn
    for kind in classes:  # those that a package keeps for itself are told as what they are kinds of
        assert (
            next(parent for parent in kind.__mro__ if parent.__name__ in drawn) is not TalosError or kind is TalosError
        )
    assert set(OF_CLASS.values()) <= CODES.keys()


@pytest.mark.parametrize(
    ("error", "code", "exit"),
    [
        (RefusedByGate("x"), "refused", 3),
        (DialError("x"), "unreachable", 4),
        (RoutingError("x"), "not_found", 4),
        (PeerNotFound("x"), "not_found", 4),
        (RecordRejected("x"), "not_found", 4),
        (StreamReset(remote=True), "unreachable", 4),
        (ConfigError("x"), "config_invalid", 5),
        (NotSupported("x"), "not_supported", 5),
        (WalletError("x"), "wallet_damaged", 5),
        (WalletError("x", reason="missing"), "no_identity", 5),
        (WalletError("x", reason="locked"), "wallet_locked", 5),
        (WalletError("x", reason="open"), "wallet_open", 5),
        (HandshakeError("x"), "remote_failed", 6),
        (BadSignature("x"), "remote_failed", 6),
        (NegotiationError("x"), "remote_failed", 6),
        (AuditError("x"), "record_refused", 7),
        (ProofInvalid("x"), "verification_failed", 8),
        (ListenError("x"), "address_unusable", 9),
        (HomeInUse("x"), "home_in_use", 9),
        (RemoteProtocolError("x"), "failed", 1),
        (MessageTooLarge("x"), "failed", 1),
        (LimitExceeded("x"), "failed", 1),
        (PermissionError(13, "Permission denied", "/x"), "file_unusable", 5),
        (OSError(30, "Read-only file system", "/x"), "file_unusable", 5),
    ],
)
def test_code_and_exit_of_each_error(error: Exception, code: str, exit: int) -> None:  # noqa: A002
    problem = problem_of(error)
    assert problem is not None
    assert (problem.code, problem.exit) == (code, exit)
    assert problem.message


def test_a_child_that_the_table_does_not_name_is_told_as_its_parent() -> None:
    class Strange(DialError):
        pass

    problem = problem_of(Strange("x"))
    assert problem is not None
    assert problem.code == "unreachable"


def test_a_port_in_use_is_told_apart() -> None:
    for number, code in ((98, "port_in_use"), (13, "address_unusable")):
        error = ListenError("cannot listen")
        error.__cause__ = OSError(number, "x")
        problem = problem_of(error)
        assert problem is not None
        assert (problem.code, problem.exit) == (code, 9)


def test_what_was_tried_stands_beside_the_message() -> None:
    addr = parse("/ip4/192.0.2.1/tcp/1")
    problem = problem_of(DialError("cannot reach bob", {addr: ConnectionRefusedError("refused")}))
    assert problem is not None
    assert (problem.message, problem.tried) == ("cannot reach bob", ("/ip4/192.0.2.1/tcp/1: refused",))


def test_a_command_to_run_is_the_hint() -> None:
    problem = problem_of(WalletError("wallet is open; run: chmod 600 x", reason="open"))
    assert problem is not None
    assert (problem.message, problem.hint) == ("wallet is open", "chmod 600 x")


def test_bugs_have_no_code() -> None:
    assert problem_of(ValueError("x")) is None
    assert problem_of(OSError("without a number")) is None
    with pytest.raises(ValueError, match="no exit"):
        Failure("nonsense", "x")
