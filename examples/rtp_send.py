#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Video over RTP to one receiver (rtp_receive.py, or the program of that name in Rust), at a bit rate that follows what it reports.

Needs python3-gi and gir1.2-gst-plugins-base-1.0 (Debian's names), and the plugin in GST_PLUGIN_PATH.
"""

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

# Bounds of the loss-based controller of draft-ietf-rmcat-gcc-02, section 6.
LOW_LOSS, HIGH_LOSS = 0.02, 0.1
# A report covers a few packets alone: so much of it goes into the mean.
NEW_SHARE = 0.25
# A round trip that takes so much longer than the shortest one has filled somebody's queue.
QUEUE_S = 0.3
# Between two reports. Feedback about single units comes when it is due.
REPORT_INTERVAL = Gst.SECOND


class Rate:
    """The bit rate in kbit/s that a path takes, as far as its reports tell."""

    def __init__(self, most, least):
        # A rate of 0 would ask for constant quality.
        self.kbps, self.most, self.least = float(most), most, max(1, min(least, most))
        self.lost, self.shortest, self.sequence = 0.0, None, None

    def report(self, sequence, lost, round_trip):
        """Takes a report: highest sequence number, share of the packets lost since the report before, round trip in s or 0. Gives the
        new rate, or None if the report says nothing new."""
        if sequence == self.sequence:
            return None
        self.sequence = sequence
        self.lost += NEW_SHARE * (lost - self.lost)
        if round_trip:
            self.shortest = min(self.shortest or round_trip, round_trip)
        if round_trip and round_trip > self.shortest + QUEUE_S:
            self.kbps *= 0.8
        elif self.lost > HIGH_LOSS:
            self.kbps *= 1 - self.lost / 2
        elif self.lost < LOW_LOSS:
            self.kbps *= 1.05
        self.kbps = min(max(self.kbps, self.least), self.most)
        return round(self.kbps)


def follow_reports(session, encoder, rate):
    """Changes the encoder's bit rate with each report of the receiver."""

    def on_report(_session, source):
        stats = source.get_property("stats")
        if not stats.get_boolean("have-rb")[1]:
            return
        number = {name: stats.get_uint(f"rb-{name}")[1] for name in ("exthighestseq", "fractionlost", "round-trip")}
        lost, round_trip = number["fractionlost"] / 256, number["round-trip"] / 65536
        kbps = rate.report(number["exthighestseq"], lost, round_trip)
        if kbps:
            print(f"{lost:.0%} lost, round trip {1000 * round_trip:.0f} ms: {kbps} kbit/s", flush=True)
            encoder.set_property("bitrate", kbps)

    session.set_property("rtcp-min-interval", REPORT_INTERVAL)
    session.connect("on-ssrc-active", on_report)


# RTCP packet type.
BYE = 203


def has_bye(packets):
    while len(packets) >= 4:
        if packets[1] == BYE:
            return True
        packets = packets[4 + 4 * int.from_bytes(packets[2:4], "big"):]
    return False


def end_after_bye(sink):
    """Ends the side of RTCP behind the BYE: GStreamer 1.22 does not always do so."""

    def on_packets(pad, info):
        buffer = info.get_buffer()
        if has_bye(buffer.extract_dup(0, buffer.get_size())):
            # The pad takes the event when the packet has been sent.
            threading.Thread(target=pad.send_event, args=(Gst.Event.new_eos(),)).start()
        return Gst.PadProbeReturn.OK

    sink.get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, on_packets)


def pipeline(options):
    host, port = options.to
    return Gst.parse_launch(
        "rtpbin name=bin rtp-profile=avpf "
        f"{options.source} ! videoconvert ! tvcenc name=encoder bitrate={options.bitrate} error-resilience=units "
        f"min-force-key-unit-interval={Gst.SECOND} ! rtptvcpay ! bin.send_rtp_sink_0 "
        f"bin.send_rtp_src_0 ! udpsink host={host} port={port} "
        f"bin.send_rtcp_src_0 ! udpsink name=rtcp host={host} port={port + 1} sync=false async=false "
        f"udpsrc port={options.reports} ! bin.recv_rtcp_sink_0")


def run(sender):
    """Until the source ends."""
    loop, faults = GLib.MainLoop(), []

    def on_message(_bus, message):
        if message.type == Gst.MessageType.ERROR:
            faults.append(message.parse_error()[0].message)
            loop.quit()
        elif message.type == Gst.MessageType.EOS:
            loop.quit()
        elif message.type == Gst.MessageType.LATENCY:
            sender.recalculate_latency()

    bus = sender.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    sender.set_state(Gst.State.PLAYING)
    try:
        loop.run()
    finally:
        sender.set_state(Gst.State.NULL)
    if faults:
        raise RuntimeError(faults[0])


def address(text):
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not HOST:PORT")
    return host, int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180", metavar="ELEMENTS",
                        help="for instance 'v4l2src', or 'filesrc location=in.mp4 ! decodebin' (default: %(default)s)")
    parser.add_argument("--to", default="127.0.0.1:5004", type=address, metavar="HOST:PORT",
                        help="where RTP goes; RTCP goes to the next port (default: %(default)s)")
    parser.add_argument("--reports", default=5006, type=int, metavar="PORT", help="where RTCP comes in (default: %(default)s)")
    parser.add_argument("--bitrate", default=40, type=int, metavar="KBPS", help="most kbit/s (default: %(default)s)")
    parser.add_argument("--least", default=10, type=int, metavar="KBPS", help="least kbit/s (default: %(default)s)")
    options = parser.parse_args()
    Gst.init(None)
    if not Gst.ElementFactory.find("tvcenc"):
        sys.exit("rtp_send: tvcenc is not there: see 'Plugin not found?' in the README")
    try:
        sender = pipeline(options)
        session = sender.get_by_name("bin").emit("get-internal-session", 0)
        follow_reports(session, sender.get_by_name("encoder"), Rate(options.bitrate, options.least))
        end_after_bye(sender.get_by_name("rtcp"))
        run(sender)
    except (RuntimeError, ValueError, GLib.Error) as error:
        sys.exit(f"rtp_send: {error}")


if __name__ == "__main__":
    main()
