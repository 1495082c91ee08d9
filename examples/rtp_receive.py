#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Shows video that comes over RTP from rtp_send.py, or the program of that name in Rust. Asks for key units, acknowledges the others, and
reports what is lost. Ends with the sender, and fails if pictures were missing.

Needs python3-gi and gir1.2-gst-plugins-base-1.0 (Debian's names), and the plugin in GST_PLUGIN_PATH.
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

CAPS = "application/x-rtp,media=video,encoding-name=TVC,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true"
# Between two reports. Feedback about single units goes when it is due.
REPORT_INTERVAL = Gst.SECOND


class Pictures:
    """Counts what the decoder shows, and what is missing between."""

    def __init__(self):
        self.shown, self.missing, self.end = 0, 0, None

    def add(self, pts, duration):
        if self.end is not None and duration:
            self.missing += max(round((pts - self.end) / duration), 0)
        self.shown += 1
        self.end = pts + duration


def pipeline(options):
    host, port = options.reports
    receiver = Gst.parse_launch(
        f"rtpbin name=bin rtp-profile=avpf latency={options.latency} do-lost=true "
        f'udpsrc name=packets port={options.port} caps="{CAPS}" ! bin.recv_rtp_sink_0 '
        f"bin. ! rtptvcdepay name=depayloader request-keyframe=true ! tvcdec name=decoder acknowledge=true ! videoconvert ! {options.sink} "
        f"udpsrc port={options.port + 1} ! bin.recv_rtcp_sink_0 "
        f"bin.send_rtcp_src_0 ! udpsink host={host} port={port} sync=false async=false")
    receiver.get_by_name("bin").emit("get-internal-session", 0).set_property("rtcp-min-interval", REPORT_INTERVAL)
    return receiver


def run(receiver, pictures):
    """Until the sender leaves, or is silent for long."""
    loop, faults = GLib.MainLoop(), []

    def on_output(_pad, info):
        if info.type & Gst.PadProbeType.BUFFER:
            buffer = info.get_buffer()
            pictures.add(buffer.pts, buffer.duration)
        elif info.get_event().type == Gst.EventType.EOS:
            loop.quit()
        return Gst.PadProbeReturn.OK

    def on_leave(_bin, _session, ssrc):
        # Anybody may say that he leaves; rtpbin names its pads recv_rtp_src_SESSION_SSRC_TYPE.
        shown = receiver.get_by_name("depayloader").get_static_pad("sink").get_peer()
        if shown and shown.get_name().split("_")[4] == str(ssrc):
            # What waits in the jitter buffer is still shown.
            receiver.get_by_name("packets").send_event(Gst.Event.new_eos())

    def on_message(_bus, message):
        if message.type == Gst.MessageType.ERROR:
            faults.append(message.parse_error()[0].message)
            loop.quit()
        elif message.type == Gst.MessageType.LATENCY:
            receiver.recalculate_latency()

    output = receiver.get_by_name("decoder").get_static_pad("src")
    output.add_probe(Gst.PadProbeType.BUFFER | Gst.PadProbeType.EVENT_DOWNSTREAM, on_output)
    for signal in ("on-bye-ssrc", "on-timeout"):
        receiver.get_by_name("bin").connect(signal, on_leave)
    bus = receiver.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    receiver.set_state(Gst.State.PLAYING)
    print("waiting for a sender", flush=True)
    try:
        loop.run()
    finally:
        stats = receiver.get_by_name("decoder").get_property("stats")
        receiver.set_state(Gst.State.NULL)
    if faults:
        raise RuntimeError(faults[0])
    return stats


def address(text):
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not HOST:PORT")
    return host, int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", default=5004, type=int, help="where RTP comes in; RTCP comes to the next one (default: %(default)s)")
    parser.add_argument("--reports", default="127.0.0.1:5006", type=address, metavar="HOST:PORT", help="where RTCP goes (default: %(default)s)")
    parser.add_argument("--latency", default=500, type=int, metavar="MS",
                        help="for how long packets may be under way; the picture pauses for later ones (default: %(default)s)")
    parser.add_argument("--sink", default="autovideosink", metavar="ELEMENTS", help="what shows the pictures (default: %(default)s)")
    options = parser.parse_args()
    Gst.init(None)
    if not Gst.ElementFactory.find("tvcdec"):
        sys.exit("rtp_receive: tvcdec is not there: see 'Plugin not found?' in the README")
    pictures = Pictures()
    try:
        stats = run(pipeline(options), pictures)
    except (RuntimeError, ValueError, GLib.Error) as error:
        sys.exit(f"rtp_receive: {error}")
    concealed, skipped = (stats.get_uint64(name)[1] for name in ("concealed", "skipped"))
    print(f"{pictures.shown} pictures, {concealed} of them concealed; {pictures.missing} missing, {skipped} of them for want of time")
    if pictures.missing or not pictures.shown:
        sys.exit(1)


if __name__ == "__main__":
    main()
