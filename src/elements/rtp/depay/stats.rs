// SPDX-License-Identifier: MPL-2.0

use crate::rtp::Statistics;

/// The property `unit-stats`.
pub fn structure(statistics: &Statistics) -> gst::Structure {
    gst::Structure::builder("application/x-rtptvcdepay-stats")
        .field("packets", statistics.packets)
        .field("rejected-packets", statistics.rejected)
        .field("units", statistics.units)
        .field("damaged-units", statistics.damaged)
        .field("lost-units", statistics.lost)
        .field("dropped-units", statistics.dropped)
        .field("key-unit-requests", statistics.requests)
        .build()
}
