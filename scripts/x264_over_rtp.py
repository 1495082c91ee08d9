# SPDX-License-Identifier: MPL-2.0
"""x264 over RTP, as GStreamer's elements send and receive it, without sockets and as fast as it goes.

The elements are fed by bare pads, so that everything runs in the calling thread: nothing waits for a clock, and the same packets come out
every time. The receiver has all packets that came before it looks for what is missing, as behind a jitter buffer that is long enough.
"""

from dataclasses import dataclass

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)

IP_AND_UDP = 20 + 8
MTU = 1200
MEDIA_TYPE, FEC_TYPE = 96, 122
# Frames that share FEC packets. rtpulpfecenc's groups end at the marker bit, which is after every frame, and one packet alone it can only repeat.
FEC_FRAMES = 4


@dataclass(frozen=True)
class Picture:
    """Raw video in I420, of widths that are multiples of 8, so that rows need no padding."""

    width: int
    height: int
    rate: tuple[int, int]

    def caps(self) -> Gst.Caps:
        numerator, denominator = self.rate
        return Gst.Caps.from_string(f"video/x-raw,format=I420,width={self.width},height={self.height},"
                                    f"framerate={numerator}/{denominator},interlace-mode=progressive,pixel-aspect-ratio=1/1")

    def bytes(self) -> int:
        return self.width * self.height + 2 * ((self.width + 1) // 2) * ((self.height + 1) // 2)

    def time(self, frame: int) -> int:
        return frame * self.rate[1] * Gst.SECOND // self.rate[0]

    def frame(self, time: int) -> int:
        return round(time * self.rate[0] / (self.rate[1] * Gst.SECOND))


@dataclass(frozen=True)
class Packet:
    data: bytes
    time: int  # ns
    is_fec: bool

    def on_wire(self) -> int:
        return len(self.data) + IP_AND_UDP


@dataclass(frozen=True)
class Sent:
    packets: list[Packet]
    caps: str
    coded: int  # bytes of H.264 without any packets

    def on_wire(self) -> int:
        return sum(packet.on_wire() for packet in self.packets)


class Chain:
    """Elements between a pad that is pushed to and a function that gets what comes out."""

    def __init__(self, elements: str, caps: Gst.Caps, take=None):
        self.bin = Gst.parse_bin_from_description(f"{elements} ! fakesink name=end sync=false async=false signal-handoffs=true", True)
        if take:
            self.bin.get_by_name("end").connect("handoff", lambda _sink, buffer, pad: take(buffer, pad))
        self.pipeline = Gst.Pipeline.new(None)
        self.pipeline.add(self.bin)
        self.pad = Gst.Pad.new("out", Gst.PadDirection.SRC)
        self.pad.set_active(True)
        self.pad.link(self.bin.get_static_pad("sink"))
        self.pipeline.set_state(Gst.State.PLAYING)
        segment = Gst.Segment()
        segment.init(Gst.Format.TIME)
        for event in (Gst.Event.new_stream_start("peer"), Gst.Event.new_caps(caps), Gst.Event.new_segment(segment)):
            self.pad.push_event(event)

    def push(self, data: bytes, time: int, duration: int = Gst.CLOCK_TIME_NONE) -> None:
        buffer = Gst.Buffer.new_wrapped(data)
        buffer.pts, buffer.dts, buffer.duration = time, time, duration
        flow = self.pad.push(buffer)
        if flow != Gst.FlowReturn.OK:
            raise RuntimeError(f"{self.bin.name}: {flow.value_nick}")

    def finish(self) -> None:
        self.pad.push_event(Gst.Event.new_eos())
        message = self.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        self.pipeline.set_state(Gst.State.NULL)
        if message:
            raise RuntimeError(message.parse_error()[0].message)


def contents(buffer: Gst.Buffer) -> bytes:
    return buffer.extract_dup(0, buffer.get_size())


def with_marker(packet: bytes, marker: bool) -> bytes:
    """A packet's marker is the highest bit of its second byte (RFC 3550, 5.1)."""
    return packet[:1] + bytes([packet[1] & 0x7F | marker << 7]) + packet[2:]


def with_number(packet: bytes, number: int) -> bytes:
    return packet[:2] + (number & 0xFFFF).to_bytes(2, "big") + packet[4:]


def encode(raw: bytes, picture: Picture, bitrate: int, fec: int) -> Sent:
    """Codes frames at kbit/s and puts them into packets, with FEC packets by percentage."""
    units = []
    frames = picture.rate[0] / picture.rate[1]
    encoder = Chain(
        f"x264enc tune=zerolatency speed-preset=veryslow intra-refresh=true key-int-max={round(2 * frames)} bitrate={bitrate} "
        "vbv-buf-capacity=2500 aud=false threads=1 sliced-threads=false ! video/x-h264,stream-format=avc,alignment=au",
        picture.caps(), lambda buffer, pad: units.append((needed(contents(buffer)), buffer.pts, pad.get_current_caps())))
    size, duration = picture.bytes(), picture.time(1)
    for number in range(len(raw) // size):
        encoder.push(raw[number * size:(number + 1) * size], picture.time(number), duration)
    encoder.finish()
    payloads = []
    payloader = Chain(f"rtph264pay pt={MEDIA_TYPE} ssrc=1 timestamp-offset=0 seqnum-offset=0 aggregate-mode=zero-latency mtu={MTU}",
                      units[0][2], lambda buffer, pad: payloads.append((contents(buffer), buffer.pts, pad.get_current_caps())))
    for data, time, _ in units:
        # x264enc adds a thousand hours, so that there is room for decoding times before the first picture.
        payloader.push(data, time - units[0][1], duration)
    payloader.finish()
    caps = payloads[-1][2].to_string()
    packets = [(data, time) for data, time, _ in payloads]
    coded = sum(len(data) for data, _, _ in units)
    return Sent(protect(packets, caps, fec) if fec else [Packet(*packet, False) for packet in packets], caps, coded)


def needed(unit: bytes) -> bytes:
    """An access unit without what would be bytes for nothing: parameter sets, which travel in the SDP, and the encoder's options."""
    kept, at = [], 0
    while at < len(unit):
        end = at + 4 + int.from_bytes(unit[at:at + 4], "big")
        kind, message = unit[at + 4] & 31, unit[at + 5]
        is_options = kind == 6 and message == 5
        if kind not in (7, 8) and not is_options:
            kept.append(unit[at:end])
        at = end
    return b"".join(kept)


def protect(packets: list[tuple[bytes, int]], caps: str, fec: int) -> list[Packet]:
    """Adds FEC packets to groups of frames."""
    protected = []

    def take(buffer: Gst.Buffer, _pad: Gst.Pad) -> None:
        data = contents(buffer)
        protected.append(Packet(data, buffer.pts, data[1] & 0x7F == FEC_TYPE))

    encoder = Chain(f"rtpulpfecenc pt={FEC_TYPE} percentage={fec}", Gst.Caps.from_string(caps), take)
    frames = 0
    for number, (data, time) in enumerate(packets):
        is_last = number + 1 == len(packets)
        frames += data[1] >> 7
        encoder.push(with_marker(data, is_last or (data[1] >> 7 == 1 and frames % FEC_FRAMES == 0)), time)
    encoder.finish()
    return protected


def decode(sent: Sent, arrived: list[bool], picture: Picture) -> dict[int, bytes]:
    """What the packets that arrived show, by the number of the frame."""
    shown = {}

    def take(buffer: Gst.Buffer, _pad: Gst.Pad) -> None:
        shown[picture.frame(buffer.pts)] = contents(buffer)

    packets = recover(sent, arrived)
    receiver = Chain("rtph264depay ! h264parse ! avdec_h264 max-threads=1 "
                     f"! video/x-raw,format=I420,width={picture.width},height={picture.height}", Gst.Caps.from_string(sent.caps), take)
    for number, (data, time) in enumerate(packets):
        # The frames of a group lost their markers at the sender.
        is_last = number + 1 == len(packets) or packets[number + 1][1] != time
        receiver.push(with_marker(data, is_last), time)
    receiver.finish()
    return shown


def recover(sent: Sent, arrived: list[bool]) -> list[tuple[bytes, int]]:
    """The packets of pictures that arrived, and those that FEC packets bring back."""
    packets = []
    caps = Gst.Caps.from_string(sent.caps)
    storage = Chain(f"rtpstorage name=storage size-time={3600 * Gst.SECOND}", caps)
    for packet, has_arrived in zip(sent.packets, arrived):
        if has_arrived:
            storage.push(packet.data, packet.time)
    decoder = Chain(f"rtpulpfecdec name=fec pt={FEC_TYPE}", caps, lambda buffer, _: packets.append((contents(buffer), buffer.pts)))
    decoder.bin.get_by_name("fec").props.storage = storage.bin.get_by_name("storage").props.internal_storage
    numbered, number = [], 0
    for packet, has_arrived in zip(sent.packets, arrived):
        if not has_arrived:
            decoder.pad.push_event(loss(packet))
        elif not packet.is_fec:
            decoder.push(packet.data, packet.time)
        # rtpulpfecdec numbers what comes out without gaps, which would hide the losses from the depayloader.
        numbered += [(with_number(data, number), time) for data, time in packets]
        packets.clear()
        number += not packet.is_fec
    decoder.finish()
    storage.finish()
    return numbered


def loss(packet: Packet) -> Gst.Event:
    """What a jitter buffer says of a packet that did not come."""
    number = int.from_bytes(packet.data[2:4], "big")
    structure = Gst.Structure.from_string(
        f"GstRTPPacketLost,seqnum=(uint){number},timestamp=(guint64){packet.time},duration=(guint64)0")[0]
    return Gst.Event.new_custom(Gst.EventType.CUSTOM_DOWNSTREAM, structure)

