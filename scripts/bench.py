#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Speed of this codec and of others, each in a process of its own: raw video from a file through the encoder into a file, and from that file
through the decoder into a fakesink. Prints Markdown tables; the start of the process is in all numbers but the last column of the second table.

The others code at the rate that tvcenc takes at its default quantizer. All run in gst-launch-1.0 but SVT-AV1, which Debian 12 has in ffmpeg only.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RATE = 25  # frames/s, of all raw files
TVC_MODEL = "target/release/tvc-model"


@dataclass
class Run:
    """What a process took."""

    wall: float  # s
    cpu: float  # s, user and system
    memory: float  # MiB, at most

    @staticmethod
    def of(command: list[str], **environment: str) -> "Run":
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench: {' '.join(command)}\n{error.decode(errors='replace')}")
        cpu = usage.ru_utime + usage.ru_stime
        return Run(time.perf_counter() - start, cpu, usage.ru_maxrss / 1024)


@dataclass
class Codec:
    name: str
    encode: list[str]
    decode: list[str]
    environment: dict[str, str]


def launch(*elements: str) -> list[str]:
    words = ["gst-launch-1.0", "-q"]
    for number, element in enumerate(elements):
        words += (["!"] if number else []) + element.split()
    return words


def raw_file(clip: str, size: tuple[int, int], frames: int, path: Path) -> None:
    width, height = size
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={RATE}/1,pixel-aspect-ratio=1/1"
    Run.of(launch(f"filesrc location={clip}", "decodebin", "videoconvert", "videoscale", "videorate", caps,
                  f"filesink location={path}"))
    picture = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    if path.stat().st_size < picture * frames:
        sys.exit(f"bench: {clip} has fewer than {frames} frames at {RATE} frames/s; --frames takes fewer")
    os.truncate(path, picture * frames)


def codecs(raw: Path, size: tuple[int, int], folder: Path, kbps: float, threads: int, kinds: list[str]) -> list[Codec]:
    width, height = size
    source = (f"filesrc location={raw}", f"rawvideoparse width={width} height={height} format=i420 framerate={RATE}/1")
    rate = max(1, round(kbps))

    def gst(name: str, encoder: str, parser: str, decoder: str, **environment: str) -> Codec:
        file = folder / f"{name.split(',')[0].replace(' ', '-')}.coded"
        # Files hold start codes, which is what a parser finds without anything else.
        stream = {"h264parse": ["video/x-h264,stream-format=byte-stream"], "h265parse": ["video/x-h265,stream-format=byte-stream"]}
        return Codec(name, launch(*source, encoder, parser, *stream.get(parser, []), f"filesink location={file}"),
                     launch(f"filesrc location={file}", parser, decoder, "fakesink sync=false"), environment)

    def tvc(kind: str, name: str, options: str) -> Codec:
        return gst(f"tvc {kind}{name}", f"tvcenc threads={threads} {options}", "tvcparse",
                   f"tvcdec threads={threads}", TVC_NUMBERS=kind)

    av1 = folder / "av1.ivf"
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    raw_input = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", str(RATE), "-i", str(raw)]
    return [
        *(tvc(kind, "", "") for kind in kinds),
        *(tvc(kind, ", detail", "quantizer=12") for kind in kinds),
        *(gst(f"x264 {preset}", f"x264enc speed-preset={preset} threads={threads} bitrate={rate}", "h264parse",
              "avdec_h264") for preset in ("veryfast", "veryslow")),
        gst("x265 medium", f"x265enc speed-preset=medium bitrate={rate}", "h265parse", "avdec_h265"),
        Codec("SVT-AV1 8 (ffmpeg)",
              [*ffmpeg, *raw_input, "-c:v", "libsvtav1", "-preset", "8", "-b:v", f"{rate}k", str(av1)],
              [*ffmpeg, "-i", str(av1), "-f", "null", "-"], {"SVT_LOG": "1"}),
    ]


def floors(threads: int) -> dict[str, dict[str, float]]:
    printed = subprocess.run([TVC_MODEL, "floor", "--threads", str(threads)], check=True, capture_output=True, text=True)
    rows = csv.DictReader(printed.stdout.splitlines())
    return {row.pop("numbers"): {key: float(value) for key, value in row.items()} for row in rows}


def processor() -> tuple[str, list[str]]:
    """Its name, and which of the instructions that matter here it has."""
    text = Path("/proc/cpuinfo").read_text()
    names = (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "a processor"), [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text.split()]


def measure(clip: str, size: tuple[int, int], frames: int, threads: int, kinds: list[str]) -> None:
    print(f"\n### {size[0]}x{size[1]}, {frames} frames\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "raw.i420"
        raw_file(clip, size, frames, raw)
        first = codecs(raw, size, folder, 1, threads, kinds)[0]
        Run.of(first.encode, **first.environment)
        coded = Path(first.encode[-1].removeprefix("location="))
        kbps = coded.stat().st_size * 8 / 1000 / (frames / RATE)
        print(f"Others at {max(1, round(kbps))} kbit/s, what `{first.name}` takes. Ratios: frames/s of `{first.name}` to that codec's.\n")
        print("| codec | encode: frames/s | ratio | CPU s | MiB | decode: frames/s | ratio | CPU s | MiB |")
        print("|---|---|---|---|---|---|---|---|---|")
        speeds = {}
        measured = codecs(raw, size, folder, kbps, threads, kinds)
        for codec in measured:
            runs = [Run.of(command, **codec.environment) for command in (codec.encode, codec.decode)]
            speeds[codec.name] = [frames / run.wall for run in runs]
            cells = [codec.name]
            for run, speed, own in zip(runs, speeds[codec.name], speeds[first.name]):
                cells += [f"{speed:.1f}", f"{own / speed:.2f}", f"{run.cpu:.1f}", f"{run.memory:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
        # The start of a process: what a stream of one unit takes.
        os.truncate(raw, raw.stat().st_size // frames)
        starts = {}
        for codec in measured[: len(kinds)]:
            starts[codec.name] = [Run.of(command, **codec.environment).wall for command in (codec.encode, codec.decode)]
    print("\n| numbers | of | kMAC a sample | 10^9 MAC/s | floor: frames/s | measured, without the start | share of the floor |")
    print("|---|---|---|---|---|---|---|")
    for kind, floor in floors(threads).items():
        if kind not in kinds:
            continue
        for number, direction in enumerate(("encode", "decode")):
            macs = floor[f"{direction}_kmac_per_sample"]
            most = floor["gmac_per_s"] * 1e9 / (macs * 1e3 * size[0] * size[1])
            wall = frames / speeds[f"tvc {kind}"][number] - starts[f"tvc {kind}"][number]
            speed = (frames - 1) / wall
            print(f"| {kind} | {direction} | {macs:.1f} | {floor['gmac_per_s']:.0f} | {most:.0f} | {speed:.1f} | {speed / most:.2f} |")


def parse_sizes(text: str) -> list[tuple[int, int]]:
    sizes = [tuple(int(side) for side in size.split("x")) for size in text.split(",")]
    # Rows of raw video are padded to four bytes by GStreamer and not at all by ffmpeg.
    if not all(len(size) == 2 and size[0] >= 16 and size[1] >= 16 and size[0] % 8 == 0 and size[1] % 2 == 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text}: WIDTHxHEIGHT, of at least 16, widths multiples of 8 and heights of 2")
    return sizes


def parse_frames(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: at least 2")
    return int(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("clip", help="any file that GStreamer decodes")
    arguments.add_argument("--sizes", type=parse_sizes, default="320x180,640x360,1280x720", help="WxH,...")
    arguments.add_argument("--frames", type=parse_frames, default=150, help="at least 2")
    arguments.add_argument("--threads", type=int, default=0, help="of this codec and x264; 0: all cores")
    options = arguments.parse_args()
    name, flags = processor()
    kinds = ["f32", "bf16"] if "avx512_bf16" in flags else ["f32"]
    print(f"{name}, {', '.join(flags) or 'no vectors'}; {options.threads or os.cpu_count()} threads.")
    for size in options.sizes:
        measure(options.clip, size, options.frames, options.threads, kinds)


if __name__ == "__main__":
    main()
