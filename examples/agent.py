"""An agent in 20 lines: it answers messages, and whoever asks for the report gets it as a file.

python examples/agent.py                  the agent and a friend in this process, as a demonstration
python examples/agent.py HOME [ADDRESS]   the agent, who joins the network of the peer at ADDRESS/p2p/…
"""

import sys
import tempfile
from pathlib import Path

import trio

from talos import Agent, open_home, parse, presets, run
from talos.messaging.files import TransferState


async def serve(agent: Agent, report: Path) -> None:
    assert agent.messaging is not None
    assert agent.files is not None
    async with agent.messaging.received() as letters:
        async for letter in letters:
            text = letter.body.decode(errors="replace")
            print(f"{agent.name} got {text!r} from {letter.sender}")
            if text == "report":
                await agent.files.send(letter.sender, report)
            else:
                await agent.messaging.send(letter.sender, f"you said {text!r}", reply_to=letter.id)


async def main(home: str, *addresses: str) -> None:
    async with open_home(home, name="Bot", bootstrap=[parse(address) for address in addresses]) as agent:
        print(f"{agent.name} is {agent.peer_id}, at {', '.join(map(str, agent.node.addrs))}")
        await serve(agent, Path(__file__))


async def demonstration() -> None:
    """A friend writes, reads the answer, asks for the report, and has it on her disk."""
    report = Path(__file__)
    with tempfile.TemporaryDirectory() as base:
        async with (
            open_home(f"{base}/bot", name="Bot", node=presets.testing()) as bot,
            open_home(f"{base}/friend", name="Friend", node=presets.testing()) as friend,
            trio.open_nursery() as nursery,
        ):
            assert friend.messaging is not None
            assert friend.files is not None
            nursery.start_soon(serve, bot, report)
            await friend.node.connect(bot.peer_id, bot.node.addrs)
            async with friend.messaging.received() as letters:
                sent = await friend.messaging.send(bot.peer_id, "hello")
                print(f"Friend has a receipt: {(await sent.wait()).state.name.lower()}")
                print(f"Friend got {(await letters.receive()).body.decode()!r}")
            with friend.files.watching() as transfers:
                await friend.messaging.send(bot.peer_id, "report")
                async for transfer in transfers:
                    if transfer.state is TransferState.COMPLETE:
                        break
            print(f"Friend has the file {transfer.name}, {transfer.total} bytes, each of them verified")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, *sys.argv[1:]) if sys.argv[1:] else run(demonstration)
