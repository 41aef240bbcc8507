"""The server of row P14: as fast as the standard library makes one. A line in, a line out."""

import json
import sys


def main() -> None:
    read, write = sys.stdin.buffer.readline, sys.stdout.buffer
    while line := read():
        message = json.loads(line)
        if "id" in message:
            text = message.get("params", {}).get("arguments", {}).get("text", "")
            result = {"content": [{"type": "text", "text": text}]}
            write.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode() + b"\n")
            write.flush()


if __name__ == "__main__":
    main()
