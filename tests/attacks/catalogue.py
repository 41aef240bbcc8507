"""The catalogue of attacks, and the page about it: `python -m tests.attacks.catalogue` writes docs/attacks.md."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "attacks.md"
OTHERS = (HERE.parent / "simulation" / "test_gossip.py",)
"""Tests of rows that need more nodes than a process holds."""
_NUMBERS = re.compile(r"(?<=_)(?:tr|mx|dh|gs|nt|da|mw|nd)\d\d(?=_)")


@dataclass(frozen=True)
class Row:
    """What an attacker does, and what comes of it."""

    number: str
    stimulus: str
    result: str


ROWS = [
    Row("TR01", "connects and sends nothing", "closed after 10 s, counted `handshake_timeout`"),
    Row("TR02", "sends a byte every 250 ms in multistream or noise", "the same: a deadline is a total"),
    Row(
        "TR03", "1,500 idle sockets of one address, 230 on loopback", "at most 8 held; the honest are served within 1 s"
    ),
    Row("TR04", "a 17th connection within 5 s", "closed before any cryptography"),
    Row(
        "TR05",
        "multistream lengths of 2^30 to 2^63, not minimal, empty; bad UTF-8",
        "closed at once, nothing allocated",
    ),
    Row("TR06", "proposes unknown protocols without end", "closed after 64"),
    Row("TR07", "asks `ls`; answers with 1,001 protocols", "`na`; NegotiationError"),
    Row(
        "TR08",
        "noise payload missing, unsigned, signed wrongly, of another key",
        "BadSignature in both roles, no event",
    ),
    Row("TR09", "another identity than the one dialled", "PeerIdMismatch, and the address rests"),
    Row(
        "TR10",
        "TLS and QUIC without certificate, with two, expired, with the victim's extension",
        "HandshakeError in both roles",
    ),
    Row("TR11", "RSA keys of 512 to 65,536 bits", "refused before they are used, under 20 ms of CPU"),
    Row("TR12", "Ed25519 keys of small order or not canonical, X25519 of zero result", "refused"),
    Row(
        "TR13", "flips every byte of the handshake; reorders, replays, cuts it", "both ends fail, nothing is delivered"
    ),
    Row("TR14", "flips, reorders, drops, doubles transport frames", "the connection ends, what came before is intact"),
    Row("TR15", "nonces just below their limit", "ends before the last one is used"),
    Row(
        "TR16",
        "no WebSocket: heads of 65 KiB, no mask, a compressed bomb, control frames in pieces, text, giants, floods of pings",
        "431, 404, 426; closed with 1002, 1003, 1008, 1009; no extension is accepted",
    ),
    Row("TR17", "strips noise and TLS from the proposals, offers plaintext", "no connection"),
    Row("TR18", "no descriptor is left for accept", "accepting pauses, and goes on when there is one"),
    Row("TR19", "1,000 dead addresses of one peer", "25 tried, 8 at once; then `backoff` without a dial"),
    Row("TR20", "64 KiB of plausible bytes before authentication", "closed, counted `preauth_bytes`"),
    Row("TR21", "one peer reconnects 100 times at 40/s", "served each time"),
    Row("TR22", "one good address, also among 24 dead ones", "reached within 200 ms"),
    Row("TR23", "datagrams of nobody to a QUIC port: random, cut, impossible", "dropped; at most threefold back"),
    Row("TR24", "2,000 first flights of QUIC handshakes that go no further", "32 held for 5 s, the rest gets Retry"),
    Row("MX01", "100,000 streams opened and not read; 20,000 SYNs at line rate", "reset above 256; other streams flow"),
    Row("MX02", "opens and resets streams 100,000 times", "no stream is left, CPU bounded, may be closed"),
    Row("MX03", "sends beyond the window, or claims to", "go away 1 at the first excess"),
    Row("MX04", "window updates beyond 2^32", "go away 1"),
    Row("MX05", "unknown ids, parity, types, flags, version", "the stream or the connection ends, as specified"),
    Row("MX06", "1,000,000 pings; answers none", "32 queued, closed by rate; noticed within 40 s"),
    Row("MX07", "does not read stream 1", "stream 2 flows, memory within the window"),
    Row("MX08", "half-closes, resets, cancels anywhere", "nothing hangs or leaks"),
    Row("MX09", "takes no byte of what is queued", "closed after 10 s"),
    Row("MX10", "sleeps 60 s with the window used up, then reads", "every byte arrives"),
    Row("MX11", "reads a byte at a time", "the window stays 256 KiB"),
    Row("MX12", "10,000 segments of a byte; ends after each prefix", "the same events as in one piece"),
    Row("MX13", "1 MiB of echo over mplex, both ways at once", "completes"),
    Row("DH01", "identify of 11 messages, 9 KiB, 5,000 protocols, 10,000 addresses", "cut to 10, 8 KiB, 1,000, 128"),
    Row("DH02", "records of another peer, older, of another domain", "ignored and counted"),
    Row("DH03", "a flood of identify pushes", "32 at once, 1/s a peer, then reset with 0x1003"),
    Row(
        "DH04",
        "PUT_VALUE without or with an unknown namespace, badly signed, of 10 KiB + 1 and 64 KiB + 1",
        "reset with 0x1004, nothing stored",
    ),
    Row("DH05", "300,000 valid PUTs and ADD_PROVIDERs", "64 values, 1,024 provider records, 8 MiB on disk"),
    Row("DH06", "ADD_PROVIDER for others, without addresses, a thousand times", "one row, its own"),
    Row(
        "DH07",
        "answers FIND_NODE with 1,000 and 10,000 peers, the asker, itself, peers without addresses",
        "20 asked, each once, never itself; past 64 KiB none",
    ),
    Row("DH08", "200 sybils in one /16, 20 at one address", "3 in the table, 2 in a bucket"),
    Row("DH09", "20 and 60 sybils nearest to a key of 1,000 nodes", "95 % of the region's records are found"),
    Row("DH10", "30 % of the nodes drop or lie", "99 % of lookups succeed"),
    Row("DH11", "half of the nodes are replaced within an hour", "99 % of lookups succeed"),
    Row("DH12", "an expired record; the clock is set 49 h on or back", "refused; not served"),
    Row("DH13", "a bootstrap list of the dead and the malicious", "tried again, ever more rarely, and told by status"),
    Row(
        "GS01", "sends what is not its author's: unsigned, another's, replayed, signed where nobody signs", "Reject, P4"
    ),
    Row("GS02", "100,000 subscriptions; 349,525 in one frame of 4 MB", "at most 100 kept; refused; gone with the peer"),
    Row("GS03", "announces without end", "10 a beat read, at most 5,000 ids asked for"),
    Row("GS04", "asks 1,000 times for one message", "3 answers"),
    Row("GS05", "announces and does not send", "P7 after the time to follow up"),
    Row("GS06", "GRAFTs within a back-off, without end, for unknown topics", "refused, P7; ignored"),
    Row("GS07", "PRUNEs with back-offs of 0 to 2^64 − 1 and 10,000 peers", "clamped to 1 s … 1 h; at most 16 dialled"),
    Row("GS08", "messages and control parts over their limits", "stream reset before decoding; Reject"),
    Row(
        "GS09",
        "the published attacks, sybils 20 to 1, among simulated nodes",
        "99.9 % delivered, p99 within 6 s",
    ),
    Row("GS10", "does not read what it subscribed to", "drops for that peer only, counted"),
    Row("GS11", "random bytes, topics that are no text, junk keys, what makes a validator raise", "reset or Reject"),
    Row(
        "NT01", "a relay's 129th reservation, the 9th of an address, two of one peer", "RESERVATION_REFUSED; one stands"
    ),
    Row("NT02", "131,073 bytes, or 121 s, on a circuit", "both legs are reset"),
    Row("NT03", "circuits to nobody, to oneself, nested", "NO_RESERVATION, PERMISSION_DENIED; not asked for at all"),
    Row(
        "NT04",
        "AutoNAT is asked to dial a victim, or a private address",
        "30 to 100 kB first, 12 a minute; private ones are refused",
    ),
    Row("NT05", "two real NATs; a symmetric pair", "a direct connection in 3 tries at most; the relay carries on"),
    Row("NT06", "a relay alters what passes", "the inner connection ends, nothing false is delivered"),
    Row("DA01", "replays a letter, also after a restart", "kept and recorded once, acknowledged each time"),
    Row("DA02", "sends another letter under the id of one", "ID_CONFLICT, the first one stays"),
    Row("DA03", "letters of 10 minutes ahead, 16 days ago, of the years 1970 and 2^64", "BAD_TIMESTAMP; BAD_PAYLOAD"),
    Row("DA04", "letters of other senders, signers and recipients than the connection's", "refused, nothing is kept"),
    Row(
        "DA05",
        "files called `../x`, `/etc/x`, `C:\\x`, `CON`, `.bashrc`, with NUL, ESC, RTL, 4 KiB",
        "one safe name, or refused",
    ),
    Row(
        "DA06",
        "links and a FIFO under the name of a file; another folder put in place",
        "not followed, nothing outside touched",
    ),
    Row("DA07", "1 KB announced and more sent; 10 GB announced; no room", "stopped, refused, nothing stays"),
    Row(
        "DA08",
        "blocks of files doubled, reordered, missing, altered, of index 2^32, of another file; chunks of live streams likewise",
        "refused; nothing that was not verified stays",
    ),
    Row("DA09", "escapes, OSC 52, OSC 8, CR, C1, bidi in texts, subjects, types", "shown escaped, JSON is ASCII"),
    Row(
        "DA11",
        "(the machine) kill -9 at any moment, a second process on the same home",
        "what was acknowledged is there; exit 9",
    ),
    Row("MW07", "(the machine) secrets where they may leak", "in no output, log, traceback or command line"),
    Row(
        "MW08",
        "(another user) wallet 0644, directory 0777, a link in its place, umask 000",
        "refused with the remedy; 0600",
    ),
    Row(
        "MW09",
        "a wrong passphrase, a flipped bit, weaker or dearer key derivation",
        "one error; what it costs is judged before it is done",
    ),
    Row("MW10", "(the operator) a passphrase on the command line", "there is no such option"),
    Row("ND01", "makes a handler raise", "its stream is reset, HandlerFailed, one log line"),
    Row("ND02", "10,000 polite visits, 1,000 that leave in the handshake", "tasks, descriptors, memory are flat"),
    Row("ND03", "meets a gate, limit or observer that raises", "refused (observer: skipped), logged once"),
    Row("ND04", "(nobody) a part is missing, nothing can be listened on", "ConfigError naming the extra; ListenError"),
    Row("ND05", "(the operator) Ctrl-C or SIGTERM at any moment, twice", "ends within 5 s, at most a line"),
    Row("ND06", "1,000 peers vanish before identify", "at most 10 lines"),
    Row("ND07", "(the machine) the clock jumps a day, the process is stopped", "the dead are found within 40 s"),
    Row("ND08", "200 names that never resolve", "at most 16 threads"),
    Row("ND09", "all of it at once in 256 MiB", "not killed, the honest are served"),
    Row("ND10", "8 sybils take all they can of each counter", "who is below its share is served"),
]

INTRODUCTION = """\
# Attacks

What a hostile peer, network or machine does to a Talos node, what the node does then, and the tests that show it. In each
a live node is attacked from outside while an honest peer keeps using it and newcomers arrive; part of every row is that
these never notice, that memory grows by less than 16 MiB, that no traceback is written, and that five seconds later
nothing is held any more. Tests marked *long* run in `make long`, all others in `make test`.

This page is written by `python -m tests.attacks.catalogue`, and a test compares it with the tests that there are.

| row | who attacks … | the node | tests in `tests/attacks`, GS09 in `tests/simulation` |
|---|---|---|---|
"""


def named_by_row() -> dict[str, list[str]]:
    """The tests that name each row, `*` behind those of `make long`."""
    found: dict[str, list[str]] = {}
    for path in (*sorted(HERE.glob("test_*.py")), *OTHERS):
        tree = ast.parse(path.read_text())
        all_slow = any(ast.unparse(line) == "pytestmark = pytest.mark.long" for line in tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                slow = all_slow or any(
                    ast.unparse(decorator) == "pytest.mark.long" for decorator in node.decorator_list
                )
                for number in _NUMBERS.findall(node.name):
                    found.setdefault(number.upper(), []).append(f"`{node.name}`" + " *long*" * slow)
    return found


def page() -> str:
    """The text of docs/attacks.md."""
    tests = named_by_row()
    lines = [
        f"| {row.number} | {row.stimulus} | {row.result} | {', '.join(tests.get(row.number, []))} |" for row in ROWS
    ]
    return INTRODUCTION + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
