"""The frame: where options may stand, what help says, what is done with what nobody expects."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import trio

from talos import __version__
from talos.cli import crash, frame, groups, logs
from talos.cli.exits import Failure
from talos.cli.main import COMMANDS
from talos.cli.session import Session
from talos.cli.streams import command_of
from talos.errors import DialError, HandshakeError

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Talos


def test_version_and_help(talos_: Talos) -> None:
    assert talos_("--version").out == f"talos {__version__}\n"
    shown = talos_("--help")
    assert shown.code == 0
    for name, entry in COMMANDS.items():
        assert f"{name} " in shown.out
        assert entry.help in shown.out


def test_every_entry_of_the_table_is_a_command_of_that_name() -> None:
    for name, entry in COMMANDS.items():
        found = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(found, click.Command)
        assert found.name == name
        assert found.help


def test_talos_alone_says_how_it_stands(talos_: Talos) -> None:
    assert talos_().out.startswith("no identity yet; start: talos init --name YOU\n")
    talos_("init", "--name", "Alice")
    assert talos_().out.startswith("Alice  12D3KooW")
    assert talos_("--json").error()["code"] == "usage"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data-dir", "{dir}", "id", "--json"),
        ("--json", "id", "--data-dir", "{dir}"),
        ("id", "--json", "--home", "{dir}"),
        ("--data-dir", "/nowhere", "id", "--data-dir", "{dir}", "--json"),
    ],
)
def test_shared_options_stand_before_or_after(talos_: Talos, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    directory = str(tmp_path / "other")
    talos_("init", "--name", "Alice", "--data-dir", directory)
    assert talos_(*(part.format(dir=directory) for part in arguments)).object()["name"] == "Alice"


def test_quiet_says_less_and_verbose_more(talos_: Talos) -> None:
    peer = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
    assert talos_("mcp-config", peer).err
    assert not talos_("mcp-config", peer, "-q").err
    assert talos_("-q", "id").err.startswith("talos: error: ")


ONE_WORD = "the server's command line is one word: --command 'python server.py'"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("wallte",), 'no such command "wallte"', "did you mean `talos wallet`?"),
        (("wallet", "word"), 'no such command "word"', "did you mean `talos wallet words`?"),
        (("\x1bx",), 'no such command "\\x1bx"', "talos --help names them all"),
        (("id", "--jsn"), "no such option --jsn", "did you mean --json?"),
        (("--timeout", "0", "id"), "--timeout is a positive number of seconds", ""),
        (("--timeout", "nan", "id"), "--timeout is a positive number of seconds", ""),
        (("mcp-config",), "missing argument 'PEER'", "talos mcp-config --help"),
        (("mcp-serve", "--command", "python", "-I", "a.py"), "no such option -I", ONE_WORD),
        (("mcp-serve", "--command", "python", "a.py"), "got unexpected extra argument (a.py)", ONE_WORD),
        (("id", "x", "y"), "got unexpected extra argument (y)", "talos id --help"),
    ],
)
def test_wrong_usage_names_the_nearest(talos_: Talos, arguments: tuple[str, ...], message: str, hint: str) -> None:
    refused = talos_(*arguments)
    assert refused.code == 2
    assert not refused.out
    assert refused.err.splitlines() == [f"talos: error: {message}"] + ([f"talos: hint: {hint}"] if hint else [])
    assert talos_("--json", *arguments).error()["code"] == "usage"


def test_home_comes_from_the_option_then_the_variable_then_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TALOS_DIR", "/v")
    assert Session(data_dir="~/x").home.path == tmp_path / "x"
    assert Session().home.path == Path("/v")
    assert not Session().home_is_default
    monkeypatch.setenv("TALOS_DIR", "")
    assert Session().home.path == tmp_path / ".talos"
    assert Session().home_is_default


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="no home directory"):
        _ = Session(data_dir="~no-such-user-here/x").home


def test_a_group_is_told_as_one_error() -> None:
    dial, shake, stop = DialError("d"), HandshakeError("h"), KeyboardInterrupt()
    assert groups.sole(BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [dial])])) is dial
    assert groups.sole(BaseExceptionGroup("", [dial, BaseExceptionGroup("", [stop])])) is stop
    assert groups.sole(ExceptionGroup("", [dial, shake])) is dial
    value = ValueError()
    assert groups.sole(ExceptionGroup("", [ExceptionGroup("", [value])])) is value
    bugs = ExceptionGroup("", [ValueError(), TypeError()])
    assert groups.sole(bugs) is bugs


def test_run_takes_groups_apart() -> None:
    async def fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise DialError("d")

    async def give(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    with pytest.raises(DialError):
        Session().run(fail)
    assert Session().run(give, 3) == 3


def crashed(session: Session) -> None:
    crash.install(session)
    try:
        _ = 1 // len("")
    except ZeroDivisionError as error:
        sys.excepthook(type(error), error, error.__traceback__)


def test_a_bug_is_one_line_and_a_private_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    session = Session(data_dir=str(tmp_path / "home"))
    session.home.prepare()
    before = os.umask(0)
    crashed(session)
    os.umask(before)
    (path,) = session.home.log.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "ZeroDivisionError" in text
    assert "test_frame.py" in text
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"talos: error: a bug in talos: ZeroDivisionError; saved as {path}"
    assert len(lines) == 2


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_where_no_home_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    crashed(Session(data_dir=str(tmp_path / "none"), debug=debug))
    said = capsys.readouterr().err
    assert "talos: error: a bug in talos: ZeroDivisionError\n" in said
    assert ("Traceback" in said) == debug
    assert not (tmp_path / "none").exists()


def test_a_bug_inside_a_command_comes_out(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("talos.cli.names.parse_name", fail)
    with pytest.raises(ZeroDivisionError):
        talos_("mcp-config", "x")


def test_ctrl_c_is_quiet(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("talos.cli.names.parse_name", stop)
    done = talos_("mcp-config", "x")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_completion_knows_the_commands_without_loading_them() -> None:
    from talos.cli.program import Program

    program = Program(COMMANDS)
    context = click.Context(program, info_name="talos")
    assert [item.value for item in program.shell_complete(context, "mcp-")] == [
        "mcp-serve",
        "mcp-connect",
        "mcp-config",
    ]
    assert "--data-dir" in [item.value for item in program.shell_complete(context, "--d")]
    assert program.get_command(context, "nothing") is None


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], None),
        (["--json"], None),
        (["mcp-connect", "x"], "mcp-connect"),
        (["--data-dir", "mcp-connect", "id"], "id"),
        (["--home=/x", "--timeout", "3", "-q", "mcp-connect"], "mcp-connect"),
        (["id", "mcp-connect"], "id"),
        (["--data-dir"], None),
    ],
)
def test_the_command_is_known_before_anything_is_loaded(arguments: list[str], command: str | None) -> None:
    assert command_of(arguments) == command


def test_options_that_take_a_value_are_those_that_the_early_look_knows() -> None:
    from talos.cli import streams

    taking = {
        name
        for option in frame._shared()
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }
    assert taking == streams._WITH_VALUE


def test_logs_are_private_and_printable(tmp_path: Path) -> None:
    import logging

    path = tmp_path / "log"
    before = os.umask(0)
    logs.configure("info", path)
    os.umask(before)
    logger = logging.getLogger("talos.test")
    logger.info("seen \x1b[31m")
    logger.debug("unseen")
    root = logging.getLogger("talos")
    for handler in root.handlers:
        handler.close()
    root.handlers.clear()
    root.propagate = True
    root.setLevel(logging.NOTSET)
    (line,) = path.read_text().splitlines()
    assert line.endswith("INFO talos.test seen \\x1b[31m")
    assert path.stat().st_mode & 0o777 == 0o600
