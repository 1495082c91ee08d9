#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""Serves video over RTSP to any number of players: gst-launch-1.0 playbin uri=rtsp://127.0.0.1:8554/tvc

Needs python3-gi and gir1.2-gst-rtsp-server-1.0 (Debian's names), and the plugin in GST_PLUGIN_PATH, here and where it is played.
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

MOUNT = "/tvc"


def factory(options):
    # One encoder for all players: a key unit every few seconds lets those in who come later.
    description = (f"( {options.source} ! videoconvert ! tvcenc bitrate={options.bitrate} key-int-max={options.key_int_max} "
                   "min-force-key-unit-interval=1000000000 ! rtptvcpay name=pay0 pt=96 )")
    made = GstRtspServer.RTSPMediaFactory()
    made.set_launch(description)
    made.set_shared(True)
    return made


def serve(options):
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1" if options.local else "0.0.0.0")
    server.set_service(str(options.port))
    server.get_mount_points().add_factory(MOUNT, factory(options))
    if not server.attach(None):
        sys.exit(f"rtsp_server: port {options.port} is taken")
    print(f"rtsp://127.0.0.1:{server.get_bound_port()}{MOUNT}", flush=True)
    GLib.MainLoop().run()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=25/1",
                        metavar="ELEMENTS", help="for instance 'v4l2src', or 'filesrc location=in.mp4 ! decodebin' (default: %(default)s)")
    parser.add_argument("--port", default=8554, type=int, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--bitrate", default=40, type=int, metavar="KBPS", help="kbit/s (default: %(default)s)")
    parser.add_argument("--key-int-max", default=75, type=int, metavar="FRAMES", help="so long a player may wait (default: %(default)s)")
    parser.add_argument("--local", action="store_true", help="for players on this machine alone")
    options = parser.parse_args()
    Gst.init(None)
    if not Gst.ElementFactory.find("tvcenc"):
        sys.exit("rtsp_server: tvcenc is not there: see 'Plugin not found?' in the README")
    try:
        serve(options)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
