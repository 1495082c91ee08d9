#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""From camera to screen: how long a flash takes through encoder, RTP over 127.0.0.1 and decoder, beside what the LATENCY queries say.

Every few seconds the picture turns bright. Taken are the times at which the first bright frame leaves the source and at which the sink shows it.
"""

import argparse
import statistics
import time

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

BRIGHT = 80  # mean of luma samples, 0 to 255


class Flashes:
    """When pictures turned bright."""

    def __init__(self):
        self.times, self.was_bright = [], True

    def see(self, buffer: Gst.Buffer) -> None:
        samples = buffer.extract_dup(0, 4096)
        is_bright = sum(samples) / len(samples) > BRIGHT
        if is_bright and not self.was_bright:
            self.times.append(time.monotonic())
        self.was_bright = is_bright


def latency(pad: Gst.Pad) -> float:
    """What is said to be taken up to a source pad, in ms."""
    query = Gst.Query.new_latency()
    pad.query(query)
    return query.parse_latency()[1] / Gst.MSECOND


def watch(pipelines: list, seconds: float, balance: Gst.Element, period: float) -> None:
    """Lets pipelines run, and flashes."""
    end, begin = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        since = (time.monotonic() - begin) % period
        balance.set_property("brightness", 0.5 if since > period / 2 else -0.5)
        for pipeline in pipelines:
            kinds = Gst.MessageType.LATENCY | Gst.MessageType.ERROR | Gst.MessageType.EOS
            message = pipeline.get_bus().timed_pop_filtered(10 * Gst.MSECOND, kinds)
            if message and message.type == Gst.MessageType.LATENCY:
                pipeline.recalculate_latency()
            elif message:
                raise SystemExit(f"glass-to-glass: {message.get_structure().to_string()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--framerate", type=int, default=25)
    parser.add_argument("--bitrate", type=int, default=30, help="kbit/s")
    parser.add_argument("--jitter-buffer", type=int, default=400, help="ms")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--period", type=float, default=6, help="seconds from flash to flash")
    parser.add_argument("--encoder", default="error-resilience=slices", help="further properties of tvcenc")
    parser.add_argument("--port", type=int, default=5610)
    options = parser.parse_args()
    Gst.init(None)
    width, height = options.size.split("x")
    sender = Gst.parse_launch(
        f"videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},height={height},framerate={options.framerate}/1 "
        f"! videobalance name=balance ! identity name=camera signal-handoffs=true ! queue "
        f"! tvcenc name=encoder bitrate={options.bitrate} {options.encoder} ! rtptvcpay ! udpsink host=127.0.0.1 port={options.port} sync=false")
    receiver = Gst.parse_launch(
        f'udpsrc port={options.port} caps="application/x-rtp,media=video,encoding-name=TVC,clock-rate=90000,payload=96" '
        f"! rtpjitterbuffer latency={options.jitter_buffer} do-lost=true ! rtptvcdepay ! tvcdec name=decoder ! video/x-raw,format=I420 "
        f"! fakesink name=screen sync=true signal-handoffs=true")
    captured, shown = Flashes(), Flashes()
    sender.get_by_name("camera").connect("handoff", lambda _, buffer: captured.see(buffer))
    receiver.get_by_name("screen").connect("handoff", lambda _, buffer, pad: shown.see(buffer))
    receiver.set_state(Gst.State.PLAYING)
    sender.set_state(Gst.State.PLAYING)
    watch([sender, receiver], options.seconds, sender.get_by_name("balance"), options.period)
    said = [latency(element.get_static_pad("src")) for element in (sender.get_by_name("encoder"), receiver.get_by_name("decoder"))]
    for pipeline in (sender, receiver):
        pipeline.set_state(Gst.State.NULL)
    # Each flash is shown before the next one.
    taken = [1000 * (end - next((start for start in reversed(captured.times) if start < end), end)) for end in shown.times]
    if not taken:
        raise SystemExit("glass-to-glass: no flash came through")
    print(f"{options.size} at {options.framerate} frames/s, {len(taken)} flashes: {statistics.median(taken):.0f} ms "
          f"({min(taken):.0f} to {max(taken):.0f}); LATENCY queries: sender {said[0]:.0f} ms, receiver {said[1]:.0f} ms")


if __name__ == "__main__":
    main()
