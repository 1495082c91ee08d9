#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Pictures of an application to TVC and back, with appsrc and appsink.

Needs python3-gi and gir1.2-gst-plugins-base-1.0 (Debian's names), and the plugin in GST_PLUGIN_PATH.
usage: encode_decode.py [BITRATE in kbit/s]
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402,F401 (GstApp gives appsrc and appsink their methods)

WIDTH, HEIGHT, FRAMES = 320, 240, 50
FRAME_TIME = 40 * Gst.MSECOND


def picture(t):
    """A grey picture with a white square that moves, I420."""
    luma = bytearray(b"\x80" * (WIDTH * HEIGHT))
    for y in range(80, 160):
        at = y * WIDTH + 2 * t
        luma[at:at + 80] = b"\xeb" * 80
    buffer = Gst.Buffer.new_wrapped(bytes(luma) + b"\x80" * (WIDTH * HEIGHT // 2))
    buffer.pts, buffer.duration = t * FRAME_TIME, FRAME_TIME
    return buffer


def run(description, buffers):
    """Pushes buffers into a pipeline's `src` and returns what comes out of its `sink`."""
    pipeline = Gst.parse_launch(description)
    source, sink = pipeline.get_by_name("src"), pipeline.get_by_name("sink")
    try:
        if pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
            raise RuntimeError(what_went_wrong(pipeline))
        for buffer in buffers:
            if source.push_buffer(buffer) != Gst.FlowReturn.OK:
                raise RuntimeError(what_went_wrong(pipeline))
        source.end_of_stream()
        samples = list(iter(sink.pull_sample, None))
        if not sink.is_eos():
            raise RuntimeError(what_went_wrong(pipeline))
        error = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        if error:
            raise RuntimeError(error.parse_error()[0].message)
        return [sample.get_buffer() for sample in samples]
    finally:
        pipeline.set_state(Gst.State.NULL)


def what_went_wrong(pipeline):
    error = pipeline.get_bus().timed_pop_filtered(Gst.SECOND, Gst.MessageType.ERROR)
    return error.parse_error()[0].message if error else "the pipeline stopped"


def main():
    Gst.init(None)
    for element in ("tvcenc", "tvcdec"):
        if not Gst.ElementFactory.find(element):
            sys.exit(f"{element} is not there: see 'Plugin not found?' in the README")
    bitrate = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    try:
        caps = f"video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=25/1"
        units = run(f"appsrc name=src format=time caps={caps} ! tvcenc bitrate={bitrate} ! appsink name=sink sync=false",
                    map(picture, range(FRAMES)))
        print(f"{FRAMES} frames in {len(units)} access units, {sum(unit.get_size() for unit in units)} bytes")
        frames = run("appsrc name=src format=time caps=video/x-tvc ! tvcparse ! tvcdec ! video/x-raw,format=RGB "
                     "! appsink name=sink sync=false", units)
        print(f"{len(frames)} frames decoded")
    except (RuntimeError, gi.repository.GLib.Error) as error:
        sys.exit(f"encode_decode: {error}")


if __name__ == "__main__":
    main()
