#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Losses: what retransmission, forward error correction and resilience are worth for a stream of this codec.

Prints Markdown: means over clips and seeds. Retransmission and parity are modelled by `tvc-model eval`: a lost packet is noticed when the next one
comes, and is sent again as long as that ends within the jitter buffer; parity is spent as rtpulpfecenc does, behind each unit. All that is sent
counts, and after what cannot be repaired the receiver asks for a key unit. Measured results are kept in the folder WORK.
"""

import argparse
import csv
import subprocess
import sys
import zlib
from itertools import product
from pathlib import Path
from statistics import fmean

# Jitter buffers in ms: one that retransmission fits into, and one for reordering alone.
LONG, SHORT = 600, 100
NONE = ["--error-resilience", "none"]


def retransmission(round_trip: int) -> list[str]:
    return [*NONE, "--retransmit", "--round-trip", str(round_trip), "--jitter-buffer", str(LONG)]


def others(round_trip: int) -> list[str]:
    return ["--round-trip", str(round_trip), "--jitter-buffer", str(SHORT)]


REPAIRS = {
    "nothing but key requests, round trip 200 ms": [*NONE, *others(200)],
    **{f"retransmission, round trip {trip} ms": retransmission(trip) for trip in (50, 200, 500)},
    **{f"FEC {percentage} %": [*NONE, "--fec", str(percentage), *others(200)] for percentage in (50, 100)},
    **{f"`error-resilience={kind}`": ["--error-resilience", kind, *others(200)] for kind in ("units", "slices")},
}


def measured(options: argparse.Namespace, clip: str, repair: str, loss: str, seed: int) -> dict:
    name = f"{Path(clip).stem}-{options.rate}-{'-'.join(REPAIRS[repair])}-{loss}-{seed}.csv".replace(":", "_").replace("--", "")
    kept = Path(options.work) / name
    if not kept.exists():
        command = [options.tvc_model, "eval", clip, "--bitrate", str(options.rate), "--no-residual", *REPAIRS[repair], "--loss", loss, "--seed",
                   # With one seed for all clips they would all lose the same packets.
                   str(zlib.crc32(f"{Path(clip).stem} {seed}".encode()))]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"repair-table: {' '.join(command)}\n{done.stderr.decode(errors='replace')}")
        kept.write_bytes(done.stdout)
    row = next(csv.DictReader(kept.read_text().splitlines()))
    seconds = int(row["bytes"]) * 8 / 1000 / float(row["kbps"])
    return {"kbps": int(row["wire_bytes"]) * 8 / 1000 / seconds, "psnr": float(row["psnr_y"]), "worst": float(row["worst_psnr_y"]),
            "not_shown": int(row["not_shown"]) / int(row["frames"]), "requests": int(row["key_requests"])}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clips", nargs="+", help="video files")
    arguments.add_argument("--rate", type=int, default=20, help="kbit/s")
    arguments.add_argument("--losses", type=lambda text: text.split(","), default=["0.01", "0.05", "0.1", "0.2"], help="as of `tvc-model eval`")
    arguments.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2])
    arguments.add_argument("--tvc-model", default="target/release/tvc-model")
    arguments.add_argument("--work", default="loss-table", help="folder for what has been measured")
    options = arguments.parse_args()
    Path(options.work).mkdir(parents=True, exist_ok=True)
    rows = {}
    # Seed by seed, so that what there is after a break is of all repairs.
    for seed, loss, repair, clip in product(options.seeds, options.losses, REPAIRS, options.clips):
        rows.setdefault((loss, repair), []).append(measured(options, clip, repair, loss, seed))
    print("| loss | repair | kbit/s on the wire | not shown | PSNR | PSNR, worst tenth | key requests |\n|---|---|---|---|---|---|---|")
    for (loss, repair), group in rows.items():
        mean = {column: fmean(row[column] for row in group) for column in group[0]}
        print(f"| {loss} | {repair} | {mean['kbps']:.1f} | {mean['not_shown']:.1%} | {mean['psnr']:.2f} | {mean['worst']:.2f} | {mean['requests']:.1f} |")


if __name__ == "__main__":
    main()
