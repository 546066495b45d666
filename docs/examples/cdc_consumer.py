#!/usr/bin/env python3
"""Follows tandem's CDC stream and prints every change, from where it stopped the last time.

Needs redis-py 5 or later and zstandard:  pip install redis zstandard
Usage:  cdc_consumer.py [redis://host:port/db] [group]  [--once]

It reads through a consumer group: several copies with the same group share the work, an entry that a copy took and did
not acknowledge before it died is taken over by the next one, and after a restart it goes on where it was. An entry may
be seen twice, so what is done with it must bear that; (key, version) tells a repetition.
"""
import argparse
import json
import os
import socket

import redis
import zstandard

STREAM = "tandem:cdc"
IDLE_MS = 60_000


def content(fields):
    """The content of a put as bytes, None for a remove."""
    meta = json.loads(fields[b"meta"])
    if fields[b"op"] == b"remove":
        return None, meta
    data = fields[b"data"]
    if meta["encoding"] == "zstd":
        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=meta["bytes"])
    return data, meta


def handle(entry_id, fields):
    data, meta = content(fields)
    line = {
        "entry": entry_id.decode(),
        "op": fields[b"op"].decode(),
        "key": fields[b"key"].decode(),
        "version": int(fields[b"version"]),
        "state": meta.get("state"),
        "audit": meta.get("audit"),
    }
    if data is not None:
        line["payload"] = json.loads(data) if meta["type"] == "json" else data.hex()
    print(json.dumps(line, ensure_ascii=False), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="redis://127.0.0.1:6379/0")
    parser.add_argument("group", nargs="?", default="example")
    parser.add_argument("--once", action="store_true", help="end when nothing is left to read")
    options = parser.parse_args()
    client = redis.Redis.from_url(options.url)
    name = f"{socket.gethostname()}-{os.getpid()}"
    try:
        # From the first entry that is still there; "$" would begin with the next one.
        client.xgroup_create(STREAM, options.group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    while True:
        claimed = client.xautoclaim(STREAM, options.group, name, min_idle_time=IDLE_MS, count=100)[1]
        block_ms = None if options.once else 5000
        fresh = client.xreadgroup(options.group, name, {STREAM: ">"}, count=100, block=block_ms)
        entries = claimed + (fresh[0][1] if fresh else [])
        for entry_id, fields in entries:
            if fields:
                handle(entry_id, fields)
            client.xack(STREAM, options.group, entry_id)
        if options.once and not entries:
            return


if __name__ == "__main__":
    main()
