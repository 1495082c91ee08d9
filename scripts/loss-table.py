#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Losses: this codec beside x264 with forward error correction, in the same bytes on the wire and over the same kind of channel.

Prints Markdown, and writes a line of CSV for each clip, rate, channel and seed. This codec goes through `tvc-model eval`, whose bytes on the wire are
the peer's budget: in each cell the peer gets what the most expensive of this codec's modes took. The peer is x264 with intra refresh, over
RTP, with and without ULP FEC; it codes at full or half size and full or half frame rate, whichever has the better LPIPS for that clip and rate
without losses. Where a frame is not shown, the last one that was stands in for it.

Measured results are kept in the folder WORK and not measured again.
"""

import argparse
import csv
import os
import pickle
import random
import subprocess
import sys
import tempfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parent))
import x264_over_rtp as rtp  # noqa: E402

# Modes of this codec, with what `tvc-model eval` is told.
OURS = {
    "units": ["--error-resilience", "units"],
    "units, acknowledged": ["--error-resilience", "units", "--acknowledge"],
    "slices": ["--error-resilience", "slices"],
    "slices, acknowledged": ["--error-resilience", "slices", "--acknowledge"],
}
FEC_PERCENTAGES = [0, 50]
ROUND_TRIP = 150  # ms
# How much more bytes than the budget the peer may take: its rate goes in steps of 1 kbit/s.
MAX_EXCESS = 1.05
COLUMNS = ["clip", "rate", "loss", "seed", "codec", "frames", "coded_bytes", "wire_bytes", "wire_kbps", "overhead", "packets", "lost", "not_shown",
           "psnr", "worst_psnr", "lpips", "ssimulacra2", "key_requests"]


@dataclass(frozen=True)
class Variant:
    """How the peer codes: by what it divides the sides and the frame rate, and its FEC packets in %."""

    size: int
    pace: int
    fec: int

    def __str__(self) -> str:
        return f"x264-1/{self.size}-1/{self.pace}-fec{self.fec}".replace("/", "_")

    def codec(self) -> str:
        return f"x264, FEC {self.fec} %" if self.fec else "x264"


@dataclass(frozen=True)
class Clip:
    path: Path
    width: int
    height: int
    rate: tuple[int, int]
    frames: int

    @staticmethod
    def probe(path: Path) -> "Clip":
        entries = "stream=width,height,r_frame_rate,nb_read_packets"
        printed = output(["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries", entries, "-of", "csv=p=0", path])
        width, height, rate, frames = printed.decode().strip().split(",")
        numerator, denominator = rate.split("/")
        return Clip(path, int(width), int(height), (int(numerator), int(denominator)), int(frames))

    def dice(self, seed: int) -> int:
        """A seed for this clip: with one for all, they would all lose the same packets."""
        return zlib.crc32(f"{self.path.stem} {seed}".encode())

    def seconds(self) -> float:
        return self.frames * self.rate[1] / self.rate[0]

    def picture(self, variant: Variant) -> rtp.Picture:
        side = 8 * variant.size
        # Multiples of 8 of the coded picture are multiples of 16 of the whole one, or the whole one itself.
        width, height = (n // side * 8 if variant.size > 1 else n for n in (self.width, self.height))
        return rtp.Picture(width, height, (self.rate[0], self.rate[1] * variant.pace))

    def raw(self, variant: Variant) -> bytes:
        picture = self.picture(variant)
        scale = f"select=not(mod(n\\,{variant.pace})),scale={picture.width}:{picture.height}:flags=bicubic"
        return output(["ffmpeg", "-v", "error", "-i", self.path, "-vf", scale, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt",
                       "yuv420p", "-"])


def output(command: list, **options) -> bytes:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"loss-table: {' '.join(map(str, command))}\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def loses(loss: str, seed: int):
    """A channel as that of `tvc-model eval --loss`: each call tells whether the next packet is lost."""
    numbers = [float(number) for number in loss.split(":")]
    good, bad, to_bad, to_good = numbers if len(numbers) == 4 else numbers * 2 + [0.0, 0.0]
    dice = random.Random(seed)
    is_bad = to_bad > 0 and dice.random() < to_bad / (to_bad + to_good)
    while True:
        is_bad ^= dice.random() < (to_good if is_bad else to_bad)
        yield dice.random() < (bad if is_bad else good)


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.work = Path(options.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.clips = [Clip.probe(Path(clip)) for clip in options.clips]
        self.perceptual = ["--lpips", options.lpips, "--perceptual-every", options.perceptual_every]
        self.raw: dict = {}

    # This codec.

    def ours(self, mode: str, loss: str, seed: int) -> list[dict]:
        """A row for each clip and rate."""
        rows = []
        for clip in self.clips:
            rows += self.ours_of(clip, mode, loss, seed)
        return rows

    def ours_of(self, clip: Clip, mode: str, loss: str, seed: int) -> list[dict]:
        rates = ",".join(map(str, self.options.rates))
        kept = self.work / f"{clip.path.stem}-{rates}-{mode}-{loss}-{seed}.csv".replace(" ", "").replace(":", "_")
        if not kept.exists():
            printed = output([self.options.tvc_model, "eval", clip.path, "--bitrate", rates, "--no-residual", *OURS[mode], "--loss", loss, "--seed",
                              clip.dice(seed), "--mtu", rtp.MTU, "--round-trip", ROUND_TRIP, *self.perceptual])
            kept.write_bytes(printed)
        found = csv.DictReader(kept.read_text().splitlines())
        return [self.our_row(clip, rate, mode, loss, seed, row) for rate, row in zip(self.options.rates, found)]

    def our_row(self, clip: Clip, rate: int, mode: str, loss: str, seed: int, row: dict) -> dict:
        coded, wire = int(row["bytes"]), int(row["wire_bytes"])
        return self.row(clip, rate, loss, seed, mode, coded_bytes=coded, wire_bytes=wire, packets=int(row["packets"]), lost=int(row["lost"]),
                        not_shown=int(row["not_shown"]) / clip.frames, psnr=float(row["psnr_y"]), worst_psnr=float(row["worst_psnr_y"]),
                        lpips=float(row["lpips"]), ssimulacra2=float(row["ssimulacra2"]), key_requests=int(row["key_requests"]))

    def row(self, clip: Clip, rate: int, loss: str, seed: int, codec: str, **measured) -> dict:
        return {"clip": clip.path.stem, "rate": rate, "loss": loss, "seed": seed, "codec": codec, "frames": clip.frames, **measured,
                "wire_kbps": measured["wire_bytes"] * 8 / 1000 / clip.seconds(),
                "overhead": measured["wire_bytes"] / measured["coded_bytes"] - 1}

    # The peer.

    def sent(self, clip: Clip, variant: Variant, bitrate: int) -> rtp.Sent:
        kept = self.work / f"{clip.path.stem}-{variant}-{bitrate}.sent"
        if not kept.exists():
            key = (clip.path, variant.size, variant.pace)
            if key not in self.raw:
                self.raw[key] = clip.raw(variant)
            kept.write_bytes(pickle.dumps(rtp.encode(self.raw[key], clip.picture(variant), bitrate, variant.fec)))
        return pickle.loads(kept.read_bytes())

    def matched(self, clip: Clip, variant: Variant, budget: int) -> rtp.Sent | None:
        """The packets that come nearest to some bytes on the wire; None where the codec takes more at any rate."""
        low, high = 1, max(2, int(budget * 8 / 1000 / clip.seconds()) + 1)
        while low < high:
            middle = (low + high) // 2
            if self.sent(clip, variant, middle).on_wire() < budget:
                low = middle + 1
            else:
                high = middle
        nearest = min((self.sent(clip, variant, rate) for rate in {max(1, low - 1), low}), key=lambda sent: abs(sent.on_wire() - budget))
        return nearest if nearest.on_wire() <= budget * MAX_EXCESS else None

    def shown(self, clip: Clip, variant: Variant, sent: rtp.Sent, arrived: list[bool], target: Path) -> int:
        """Writes what a viewer sees as Y4M of the clip's size; how many frames are not shown."""
        picture = clip.picture(variant)
        decoded = rtp.decode(sent, arrived, picture)
        # As in `tvc-model eval`, it is grey before the first frame.
        last, missing, frames = b"\x80" * picture.bytes(), 0, []
        for number in range(clip.frames):
            missing += number // variant.pace not in decoded
            last = decoded.get(number // variant.pace, last)
            frames.append(last)
        if any(len(frame) != picture.bytes() for frame in frames):
            sys.exit(f"loss-table: frames of {clip.path} came back in another size")
        output(["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{picture.width}x{picture.height}", "-r",
                f"{clip.rate[0]}/{clip.rate[1]}", "-i", "-", "-vf", f"scale={clip.width}:{clip.height}:flags=bicubic", target],
               input=b"".join(frames))
        return missing

    def peers(self, clip: Clip, cells: list[tuple[str, int, Variant, rtp.Sent]], rate: int) -> list[dict]:
        """A row for each cell, which is a channel, a seed, a variant and its packets. One process measures all of them."""
        rows, pairs = [], []
        with tempfile.TemporaryDirectory() as folder:
            for number, (loss, seed, variant, sent) in enumerate(cells):
                channel = loses(loss, clip.dice(seed))
                arrived = [not next(channel) for _ in sent.packets]
                decoded, stream = Path(folder) / f"{number}.y4m", Path(folder) / f"{number}.wire"
                missing = self.shown(clip, variant, sent, arrived, decoded)
                stream.touch()
                pairs += ["--coded", stream, decoded]
                rows.append(self.row(clip, rate, loss, seed, variant.codec(), coded_bytes=sent.coded, wire_bytes=sent.on_wire(),
                                     packets=len(arrived), lost=arrived.count(False), not_shown=missing / clip.frames, key_requests=0))
            measured = output([self.options.tvc_model, "compare", clip.path, *pairs, *self.perceptual]).decode().splitlines()
        for row, line in zip(rows, measured[2:]):
            _, _, _, _, psnr, _, _, lpips, _, worst, _, score = line.split()
            row |= {"psnr": float(psnr), "worst_psnr": float(worst), "lpips": float(lpips), "ssimulacra2": float(score)}
        return rows

    def best(self, clip: Clip, rate: int, fec: int, budget: int) -> Variant | None:
        """The size and frame rate with the best LPIPS where nothing is lost."""
        kept = self.work / f"{clip.path.stem}-{rate}-fec{fec}-{budget}.best"
        if not kept.exists():
            variants = [Variant(size, pace, fec) for size, pace in product((1, 2), (1, 2))]
            sent = [(variant, self.matched(clip, variant, budget)) for variant in variants]
            cells = [("0", 1, variant, packets) for variant, packets in sent if packets]
            rows = self.peers(clip, cells, rate) if cells else []
            kept.write_bytes(pickle.dumps(min(zip([row["lpips"] for row in rows], [str(cell[2]) for cell in cells], [cell[2] for cell in cells]),
                                              default=(0, "", None), key=lambda found: found[0])[2]))
        return pickle.loads(kept.read_bytes())

    def peer_rows(self, clip: Clip, rate: int, budgets: dict[tuple[str, int], int]) -> list[dict]:
        """All channels and seeds of a clip at a rate; `budgets`: bytes on the wire by channel and seed."""
        kept = self.work / f"{clip.path.stem}-{rate}-x264-{len(budgets)}-{sum(budgets.values())}.rows"
        if not kept.exists():
            cells = []
            for fec in FEC_PERCENTAGES:
                variant = self.best(clip, rate, fec, budgets[("0", self.options.seeds[0])])
                for (loss, seed), budget in budgets.items() if variant else ():
                    sent = self.matched(clip, variant, budget)
                    cells += [(loss, seed, variant, sent)] if sent else []
            kept.write_bytes(pickle.dumps(self.peers(clip, cells, rate) if cells else []))
        return pickle.loads(kept.read_bytes())

    def table(self) -> list[dict]:
        channels = [(loss, seed) for seed in self.options.seeds for loss in self.options.losses if loss != "0" or seed == self.options.seeds[0]]
        rows = [row for (loss, seed), mode in product(channels, self.options.modes) for row in self.ours(mode, loss, seed)]
        budgets = defaultdict(dict)
        for row in rows:
            of_clip = budgets[(row["clip"], row["rate"])]
            cell = (row["loss"], row["seed"])
            of_clip[cell] = max(of_clip.get(cell, 0), row["wire_bytes"])
        for clip, rate in product(self.clips, self.options.rates):
            rows += self.peer_rows(clip, rate, budgets[(clip.path.stem, rate)])
        return rows


def markdown(rows: list[dict]) -> str:
    """Means over the clips and seeds that all codecs have: x264 may not come down to the bytes of a cell."""
    have = defaultdict(set)
    for row in rows:
        have[(row["rate"], row["loss"], row["clip"], row["seed"])].add(row["codec"])
    codecs = {row["codec"] for row in rows}
    groups = defaultdict(list)
    for row in rows:
        if have[(row["rate"], row["loss"], row["clip"], row["seed"])] == codecs:
            groups[(row["rate"], row["loss"], row["codec"])].append(row)
    lines = ["| rate | loss | codec | cells | kbit/s on the wire | overhead | not shown | PSNR | PSNR, worst tenth | LPIPS | SSIMULACRA2 | key requests |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for (rate, loss, codec), group in sorted(groups.items(), key=lambda item: (item[0][0], len(item[0][1].split(":")), item[0][1])):
        mean = {column: fmean(row[column] for row in group) for column in COLUMNS[6:]}
        lines.append(f"| {rate} | {loss} | {codec} | {len(group)} | {mean['wire_kbps']:.1f} | {mean['overhead']:.0%} | {mean['not_shown']:.1%} | "
                     f"{mean['psnr']:.2f} | {mean['worst_psnr']:.2f} | {mean['lpips']:.3f} | {mean['ssimulacra2']:.1f} | {mean['key_requests']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clips", nargs="+", help="video files; a few seconds of each will do")
    arguments.add_argument("--rates", type=lambda text: [int(rate) for rate in text.split(",")], default=[20, 40], help="kbit/s of this codec")
    arguments.add_argument("--losses", type=lambda text: text.split(","),
                           default="0,0.01,0.05,0.1,0.2,0.04:0.25:0.05:0.25,0.04:0.5:0.05:0.25,0.04:0.75:0.05:0.25".split(","),
                           help="as of `tvc-model eval --loss`; 0 must be among them")
    arguments.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2])
    arguments.add_argument("--modes", type=lambda text: text.split(";"), default=list(OURS), help=f"of this codec: {'; '.join(OURS)}")
    arguments.add_argument("--lpips", required=True, help="weights, safetensors")
    arguments.add_argument("--perceptual-every", type=int, default=4, help="take LPIPS and SSIMULACRA2 of every n-th frame")
    arguments.add_argument("--tvc-model", default="target/release/tvc-model")
    arguments.add_argument("--work", default="loss-table", help="folder for what has been measured")
    arguments.add_argument("--csv", default="loss-table/loss-table.csv")
    options = arguments.parse_args()
    rows = Bench(options).table()
    with open(options.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
