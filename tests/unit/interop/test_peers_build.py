"""Building the peers: with a toolchain that is a few lines of shell, in a cache of its own."""

from __future__ import annotations

import fcntl
import shlex
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from interop.peers import build
from interop.peers.build import PEERS, RECIPES, BuildFailed, Recipe, ToolchainAbsent, cache, command, main

FAKE = "fake"
TOOL = "fakec"
LOG = "builds.log"


class Toolchain:
    """A peer `fake` whose compiler is a script on PATH that says in a log when it ran."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = folder / "source" / FAKE
        self.cache = folder / "cache"
        self.log = folder / LOG
        self.bin = folder / "bin"
        self._monkeypatch = monkeypatch
        self.source.mkdir(parents=True)
        self.bin.mkdir()
        (self.source / "main.fake").write_text("one")
        (self.source / "lock").write_text("libfake v1.2.3\n")
        monkeypatch.setenv("TALOS_PEERS_CACHE", str(self.cache))
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        monkeypatch.setattr(build, "SOURCE", self.source.parent)
        self.recipe = Recipe(
            tools=(TOOL,),
            steps=((TOOL, "main.fake"),),
            program=("./peer", "--flag"),
            version=build._matched("lock", r"libfake v(\S+)"),
            kept=("peer",),
        )
        self.use()
        self.compiler()

    def use(self, **changes: object) -> None:
        self.recipe = replace(self.recipe, **changes)  # type: ignore[arg-type]
        self._monkeypatch.setattr(build, "RECIPES", {FAKE: self.recipe})

    def compiler(self, *lines: str) -> None:
        """Replaces the compiler; it makes `peer` of its first argument unless one of `lines` ends it before."""
        tool = self.bin / TOOL
        log = shlex.quote(str(self.log))
        tool.write_text("\n".join(("#!/bin/sh", f'echo "$PWD" >> {log}', *lines, 'cp "$1" peer')) + "\n")
        tool.chmod(0o755)

    def builds(self) -> list[Path]:
        """Where the compiler ran, each time."""
        return [Path(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def left(self) -> list[str]:
        """What stands in the cache beside locks."""
        return sorted(path.name for path in self.cache.iterdir() if path.suffix != ".lock")


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    return Toolchain(tmp_path, monkeypatch)


# ------------------------------------------------------------------------------- a build


def test_a_peer_is_built_once(toolchain: Toolchain) -> None:
    peer = command(FAKE)
    assert (peer.name, peer.version) == (FAKE, "1.2.3")
    program = Path(peer.argv[0])
    assert peer.argv[1:] == ("--flag",)
    assert program.read_text() == "one"
    assert program.parent.parent == toolchain.cache
    assert command(FAKE) == peer
    [where] = toolchain.builds()
    assert where.parent == toolchain.cache
    assert where != program.parent  # beside, and moved when complete
    assert toolchain.left() == [program.parent.name]


def test_only_what_is_kept_remains(toolchain: Toolchain) -> None:
    toolchain.compiler("mkdir objects", "touch objects/a.o")
    assert [path.name for path in Path(command(FAKE).argv[0]).parent.iterdir()] == ["peer"]


def test_everything_remains_where_nothing_is_named(toolchain: Toolchain) -> None:
    toolchain.use(kept=())
    assert {path.name for path in Path(command(FAKE).argv[0]).parent.iterdir()} == {"lock", "main.fake", "peer"}


def test_words_of_the_program_stay_as_they_are_without_a_dot(toolchain: Toolchain) -> None:
    toolchain.use(program=("interpreter", "./peer", "plain"))
    first, second, third = command(FAKE).argv
    assert (first, third) == ("interpreter", "plain")
    assert Path(second).is_absolute()


def test_steps_run_in_order_with_python_and_environment(toolchain: Toolchain) -> None:
    note = "import os, pathlib; pathlib.Path('main.fake').write_text(os.environ['GREETING'])"
    toolchain.use(steps=(("{python}", "-S", "-c", note), (TOOL, "main.fake")), environment={"GREETING": "hello"})
    assert Path(command(FAKE).argv[0]).read_text() == "hello"
    assert (toolchain.source / "main.fake").read_text() == "one"  # the tree is never written to


def test_nothing_of_the_tools_is_copied_or_counted(toolchain: Toolchain) -> None:
    toolchain.use(kept=())
    before = command(FAKE)
    for name in build.LEFT_OVER:
        (toolchain.source / name).mkdir()
        (toolchain.source / name / "file").write_text("left over")
    assert command(FAKE) == before
    (toolchain.source / "main.fake").write_text("two")
    folder = Path(command(FAKE).argv[0]).parent
    assert not {path.name for path in folder.iterdir()} & set(build.LEFT_OVER)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": {"A": "1"}},
        {"depends_on": ("another Python",)},
        {"kept": ("peer", "lock")},
        {"steps": ((TOOL, "main.fake"), ("true",))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_recipe_is_another_build(toolchain: Toolchain, changes: dict[str, object]) -> None:
    before = command(FAKE)
    toolchain.use(**changes)
    assert command(FAKE).argv != before.argv
    assert len(toolchain.builds()) == 2


def test_another_source_is_another_build(toolchain: Toolchain) -> None:
    before = Path(command(FAKE).argv[0])
    (toolchain.source / "main.fake").write_text("two")
    after = Path(command(FAKE).argv[0])
    assert (before.read_text(), after.read_text()) == ("one", "two")
    (toolchain.source / "main.fake").rename(toolchain.source / "other.fake")
    (toolchain.source / "main.fake").write_text("two")
    assert Path(command(FAKE).argv[0]) not in {before, after}  # names count, not only contents


# ------------------------------------------------------------------------------- one build for all


def test_callers_at_once_share_one_build(toolchain: Toolchain, tmp_path: Path) -> None:
    """The compiler waits until both have started; the slower one comes to the lock, or to what was built."""
    gate = tmp_path / "gate"
    toolchain.compiler(f"until [ -e {shlex.quote(str(gate))} ]; do sleep 0.01; done")
    peers: list[build.Peer] = []
    callers = [threading.Thread(target=lambda: peers.append(command(FAKE))) for _ in range(2)]
    for caller in callers:
        caller.start()
    gate.touch()
    for caller in callers:
        caller.join()
    assert peers[0] == peers[1]
    assert len(toolchain.builds()) == 1


def test_who_waited_for_the_lock_finds_the_peer_built(toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the lock when we come, and has built when it lets go."""
    built = command(FAKE)
    folder = Path(built.argv[0]).parent
    aside = folder.rename(folder.with_name("aside"))
    waits: list[int] = []

    def other_process_finishes(_file: object, operation: int) -> None:
        waits.append(operation)
        aside.rename(folder)

    monkeypatch.setattr(fcntl, "flock", other_process_finishes)
    assert command(FAKE) == built
    assert waits == [fcntl.LOCK_EX]
    assert len(toolchain.builds()) == 1


def test_the_lock_is_held_during_a_build_and_free_behind_it(toolchain: Toolchain) -> None:
    lock = toolchain.cache / f"{FAKE}.lock"
    held = f"import fcntl; fcntl.flock(open({str(lock)!r}, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    toolchain.use(steps=(("{python}", "-S", "-c", held),))
    with pytest.raises(BuildFailed, match="BlockingIOError"):
        command(FAKE)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_killed_build_left_is_swept(toolchain: Toolchain) -> None:
    toolchain.cache.mkdir()
    for name in (f".{FAKE}-killed", ".other-running", f"{FAKE}-0123456789abcdef"):
        (toolchain.cache / name).mkdir()
        (toolchain.cache / name / "half").write_text("x")
    folder = Path(command(FAKE).argv[0]).parent
    assert toolchain.left() == sorted([".other-running", f"{FAKE}-0123456789abcdef", folder.name])


# ------------------------------------------------------------------------------- what goes wrong


def test_a_missing_tool_is_no_failure(toolchain: Toolchain) -> None:
    (toolchain.bin / TOOL).unlink()
    with pytest.raises(ToolchainAbsent, match="fake: fakec is not on PATH") as caught:
        command(FAKE)
    assert (caught.value.peer, caught.value.tool) == (FAKE, TOOL)
    assert not toolchain.cache.exists()


def test_a_broken_toolchain_is_a_failure(toolchain: Toolchain) -> None:
    toolchain.compiler("seq 1 100", "echo 'cannot compile' >&2", "exit 3")
    with pytest.raises(BuildFailed, match=r"^fake: fakec main\.fake failed\n") as caught:
        command(FAKE)
    assert caught.value.step == "fakec main.fake"
    log = caught.value.log.splitlines()
    assert len(log) == build.LOG_LINES
    assert log[-1] == "cannot compile"
    assert toolchain.left() == []


def test_a_failed_build_is_tried_again(toolchain: Toolchain) -> None:
    toolchain.compiler("exit 1")
    with pytest.raises(BuildFailed):
        command(FAKE)
    toolchain.compiler()
    assert Path(command(FAKE).argv[0]).read_text() == "one"


def test_no_step_follows_a_failed_one(toolchain: Toolchain) -> None:
    toolchain.use(steps=(("false",), (TOOL, "main.fake")))
    with pytest.raises(BuildFailed, match="fake: false failed"):
        command(FAKE)
    assert toolchain.builds() == []


def test_a_step_that_does_not_end_is_a_failure(toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP_SECONDS", 0.05)
    toolchain.use(steps=(("sleep", "60"),))
    with pytest.raises(BuildFailed, match="more than 0 s"):
        command(FAKE)
    assert toolchain.left() == []


def test_a_lock_file_without_the_library_is_an_error(toolchain: Toolchain) -> None:
    (toolchain.source / "lock").write_text("nothing\n")
    with pytest.raises(ValueError, match="names no version"):
        command(FAKE)


# ------------------------------------------------------------------------------- the cache


def test_where_peers_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TALOS_PEERS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache() == tmp_path / ".cache" / "talos" / "peers"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache() == tmp_path / "xdg" / "talos" / "peers"
    monkeypatch.setenv("TALOS_PEERS_CACHE", "here")
    assert cache() == Path.cwd() / "here"


# ------------------------------------------------------------------------------- the command line


def test_the_command_line(
    toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "PEERS", (FAKE,))
    assert main([]) == 0
    name, version, words = capsys.readouterr().out.strip().split("\t")
    assert (name, version) == (FAKE, "1.2.3")
    assert shlex.split(words) == list(command(FAKE).argv)

    (toolchain.source / "main.fake").write_text("two")
    toolchain.compiler("echo broken", "exit 1")
    assert main([FAKE]) == 1
    assert "fake: fakec main.fake failed\nbroken" in capsys.readouterr().err

    (toolchain.bin / TOOL).unlink()
    assert main([FAKE]) == 0
    assert capsys.readouterr().out == "fake\tabsent\tfakec is not on PATH\n"

    assert main(["perl"]) == 2
    assert capsys.readouterr().err == "unknown peers: perl; there are fake\n"


# ------------------------------------------------------------------------------- the real recipes


@pytest.mark.parametrize("peer", PEERS)
def test_the_real_recipes_name_what_is_there(peer: str) -> None:
    """Without building: versions are read from the locks, and what would be started belongs to the build."""
    recipe, source = RECIPES[peer], build.SOURCE / peer
    assert recipe.version(source)[0].isdigit()
    assert any(word.startswith("./") for word in recipe.program)
    assert recipe.version(source) in (build.SOURCE / "README.md").read_text()
    assert len(build._key(recipe, source)) == build.KEY_DIGITS
    if recipe.steps[0][0] == "{python}":
        assert sys.version in recipe.depends_on
