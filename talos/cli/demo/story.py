"""What the demonstration shows: each step makes claims, and checks each of them by another process than the actor."""

from __future__ import annotations

import base64
import json
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from talos.cli.demo.world import HELLO, Setback
from talos.cli.output import short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from talos.cli.demo.world import Agent, Lent, World

__all__ = ["STEPS", "Claim", "Step", "Story"]

T = TypeVar("T")

NAMES = ("alice", "bob", "toolhost", "mallory")
TOPIC = "fleet"
REFUSED = 3
UNVERIFIED = 8


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    holds: bool


@dataclass(slots=True, kw_only=True)
class Step:
    """One step as it came out."""

    number: int
    name: str
    text: str = ""
    claims: list[Claim] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(claim.holds for claim in self.claims)

    @property
    def failed(self) -> str:
        """The first claim that does not hold."""
        return next(claim.text for claim in self.claims if not claim.holds)


class Story:
    """The steps in their order; the first one that fails is the last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agents: dict[str, Agent] = {}
        self.lent: Lent

    def steps(self) -> Iterator[Step]:
        for name in STEPS:
            step = self.take(name)
            yield step
            if not step.ok:
                return

    def take(self, name: str) -> Step:
        """One step; it needs what those before it did."""
        step = Step(number=STEPS.index(name) + 1, name=name)
        started = time.monotonic()
        try:
            told: Callable[[Step], str] = getattr(self, f"_{name}")
            step.text = told(step)
        except Setback as setback:
            step.claims.append(Claim(str(setback), holds=False))
        step.seconds = time.monotonic() - started
        return step

    def _identities(self, step: Step) -> str:
        for agent in _at_once(*(partial(self.world.make, name) for name in NAMES)):
            self.agents[agent.name] = agent
            private = all(
                stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (agent.home, *agent.home.rglob("*"))
            )
            _claim(step, f"the files of {agent.name} are readable by their owner alone", private)
        ids = {agent.peer_id for agent in self.agents.values()}
        _claim(step, "each agent has a key of its own", len(ids) == len(self.agents))
        return "   ".join(f"{agent.name} {short(agent.peer_id)}" for agent in self.agents.values())

    def _network(self, step: Step) -> str:
        self.world.meet("alice", "toolhost", "mallory")
        met = self.world.met["identity"]["peer_id"]
        _claim(step, "bob is up under the key of his own home", met == self.agents["bob"].peer_id)
        return "bob is up; the others were given his address, and no other one"

    def _lend(self, step: Step) -> str:
        self.lent = self.world.choose()
        self.world.serve(self.lent, self.agents["alice"])
        ready, toolhost = self.world.ready, self.agents["toolhost"]
        granted = [grant["peer_id"] for grant in ready["grants"]]
        _claim(step, "toolhost listens under the key of its own home", ready["peer_id"] == toolhost.peer_id)
        _claim(step, "its address names that key", self.world.address.endswith(f"/p2p/{toolhost.peer_id}"))
        _claim(step, "alice, and nobody else, has a grant", granted == [self.agents["alice"].peer_id])
        return f"toolhost lends {self.lent.title} to alice's key alone"

    def _found(self, step: Step) -> str:
        """By processes that know bob's address only."""
        toolhost = self.agents["toolhost"]
        (found,) = self.world.answer("alice", "dht", "find-peer", toolhost.peer_id)
        listens = self.world.address.partition("/p2p/")[0]
        _claim(step, "the DHT told alice where toolhost listens", listens in found["addrs"])
        return "alice found toolhost by its key, through the DHT"

    def _gossip(self, step: Step) -> str:
        """Bob and toolhost listen; alice, who is connected to bob alone, says two things."""
        said = [secrets.token_hex(8) for _ in range(2)]
        subscribers = [self.world.listen_for(name, TOPIC, len(said)) for name in ("bob", "toolhost")]
        self.world.until_in_mesh("bob", TOPIC, self.agents["toolhost"].peer_id)
        _at_once(*(partial(self.world.answer, "alice", "gossip", "pub", TOPIC, text) for text in said))
        alice = self.agents["alice"].peer_id
        for name, subscriber in zip(("bob", "toolhost"), subscribers, strict=True):
            heard = self.world.heard(subscriber)
            texts = [base64.b64decode(message["data_b64"]).decode() for message in heard]
            _claim(step, f"{name} heard what alice said, once each", sorted(texts) == sorted(said))
            _claim(step, f"{name} knows that alice said it", {message["from"] for message in heard} == {alice})
        return f'{len(said)} published on "{TOPIC}", 2 of 2 subscribers have them, none twice'

    def _call(self, step: Step) -> str:
        """The client's answers through the tunnel against those that the server gives it without one."""
        clients = (partial(self.world.client, each, self.lent) for each in (self.lent.command, self._connect("alice")))
        expected, through = _at_once(*clients)
        raw = self.world.talos("alice", "mcp-connect", self.agents["toolhost"].peer_id, stdin=HELLO)
        direct = self.world.direct(self.lent)
        last = through["results"][-1]
        _claim(step, "alice's client read the note that lies on toolhost's disk", self.world.note in last["text"][0])
        _claim(step, "the results are those that the server gives directly", through["results"] == expected["results"])
        _claim(step, "the list of tools is the direct one", through["tools"] == expected["tools"])
        _claim(step, "the server's lines arrived byte for byte", bool(raw.out) and raw.out == direct)
        return (
            f"alice called toolhost's {self.lent.spoken}: {last['text'][0]!r}; "
            f"{len(through['tools'])} tools listed, byte for byte as without a tunnel (client: {through['client']})"
        )

    def _refusal(self, step: Step) -> str:
        before = self.world.starts()
        done = self.world.talos("mallory", "mcp-connect", self.agents["toolhost"].peer_id, stdin=HELLO)
        _claim(step, f"mallory's mcp-connect ended with exit {REFUSED}, not {done.code}", done.code == REFUSED)
        _claim(step, "no server was started for mallory", self.world.starts() == before)
        _claim(step, "mallory got no line of the server", b'"result"' not in done.out)
        return f"mallory, not authorised, tried the same: exit {done.code}, and no server was started"

    def _audit(self, step: Step) -> str:
        """Both logs hold the same lines by their hashes, and toolhost's also the refusal."""
        sides = ("alice", "toolhost")
        ours, theirs = _at_once(*(partial(self._entries, name) for name in sides))
        lines, again = (sorted(entry["sealed_hash"] for entry in log if entry["line"]) for log in (ours, theirs))
        _claim(step, "both sides recorded each line, with equal hashes", bool(lines) and lines == again)
        tool = self.lent.calls[-1][0]
        calls, everything = _at_once(*(partial(self._calls, "toolhost", tool=name) for name in (tool, None)))
        by_alice = [call for call in calls if call["peer_id"] == self.agents["alice"].peer_id and call["ok"]]
        _claim(step, "toolhost's log names the tool that alice called", len(by_alice) == 1)
        refused = [call for call in everything if call["type"] == "refused"]
        by_mallory = [call for call in refused if call["peer_id"] == self.agents["mallory"].peer_id]
        _claim(step, "toolhost's log names mallory's attempt", len(by_mallory) == 1 == len(refused))
        _at_once(*(partial(self.world.answer, name, "audit", "verify") for name in sides))
        return f"{len(lines)} lines in the log of each side, hash for hash; mallory's attempt in toolhost's"

    def _tampering(self, step: Step) -> str:
        copy = self.world.copy_of("toolhost")
        index = self.world.tamper(self.world.home(copy) / "chain")
        done, original = _at_once(*(partial(self.world.talos, name, "audit", "verify") for name in (copy, "toolhost")))
        caught = done.code == UNVERIFIED and f"entry {index}:" in done.err
        _claim(step, f"one flipped byte in a copied log is found (exit {done.code})", caught)
        _claim(step, "the log itself is in order", original.code == 0)
        return f"one byte of a copied log flipped: verify names entry {index}, exit {done.code}"

    def _after(self, step: Step) -> str:
        for name, process in (("toolhost", self.world.serving), ("bob", self.world.meeting)):
            assert process is not None
            code = self.world.stop(process)
            _claim(step, f"{name} ended when it was asked to (exit {code})", code is not None)
        left = self.world.left()
        _claim(step, f"no process is left ({', '.join(left) or 'none'})", not left)
        _claim(step, "no port is open", not self.world.reachable())
        return "all ended, no process left, no port open"

    def _connect(self, name: str) -> tuple[str, ...]:
        return (*self.world.command(name), "mcp-connect", self.agents["toolhost"].peer_id)

    def _entries(self, name: str) -> list[dict[str, Any]]:
        """The exported entries of a home."""
        file = self.world.path / f"{name}.jsonl"
        file.unlink(missing_ok=True)
        self.world.answer(name, "audit", "export", str(file))
        return [json.loads(line) for line in file.read_text().splitlines()]

    def _calls(self, name: str, tool: str | None = None) -> list[dict[str, Any]]:
        return self.world.answer(name, "audit", *(("--tool", tool) if tool else ()))


STEPS = ("identities", "network", "lend", "found", "gossip", "call", "refusal", "audit", "tampering", "after")


def _at_once(*actions: Callable[[], T]) -> list[T]:
    """What they give, in their order; each waits for processes of its own. The first one's Setback is raised."""
    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(lambda action: action(), actions))


def _claim(step: Step, text: str, holds: bool) -> None:  # noqa: FBT001 - what is claimed, and whether it is so
    step.claims.append(Claim(text, holds))
