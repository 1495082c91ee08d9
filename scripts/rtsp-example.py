#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""rtsp-example.py: plays what examples/rtsp_server.py serves with playbin, as any player would. Fails where pictures are missing."""

import pathlib
import subprocess
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

SERVER = pathlib.Path(__file__).resolve().parent.parent / "examples" / "rtsp_server.py"
FRAMES = 75
SOURCE = f"videotestsrc is-live=true pattern=ball num-buffers={FRAMES} ! video/x-raw,width=160,height=90,framerate=25/1"
PATIENCE = 120 * Gst.SECOND


def play(uri):
    """The number of pictures that are shown."""
    player, sink = Gst.ElementFactory.make("playbin"), Gst.ElementFactory.make("fakesink")
    times = set()
    sink.set_property("signal-handoffs", True)
    sink.connect("handoff", lambda _sink, buffer, _pad: times.add(buffer.pts))
    player.set_property("uri", uri)
    player.set_property("video-sink", sink)
    player.set_state(Gst.State.PLAYING)
    try:
        end = player.get_bus().timed_pop_filtered(PATIENCE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        if not end or end.type == Gst.MessageType.ERROR:
            sys.exit(f"rtsp-example: {end.parse_error() if end else 'it does not end'}")
        return len(times)
    finally:
        player.set_state(Gst.State.NULL)


def main():
    Gst.init(None)
    command = ["/usr/bin/python3", SERVER, "--local", "--port", "0", "--source", SOURCE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            shown = play(server.stdout.readline().strip())
        finally:
            server.terminate()
    print(f"{shown} of {FRAMES} pictures came through playbin")
    if shown != FRAMES:
        sys.exit("rtsp-example: pictures are missing")


if __name__ == "__main__":
    main()
