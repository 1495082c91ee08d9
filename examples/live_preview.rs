// SPDX-License-Identifier: MPL-2.0
//! A camera beside what a viewer at a few kbit/s would see of it.
//!
//! `cargo run --release --example live_preview [SOURCE [SINK]]`, for instance `v4l2src autovideosink`. Without
//! arguments: a live test picture, five seconds of it, shown nowhere.

use gst::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    gst::init()?;
    gsttvc::plugin_register_static()?;
    let mut arguments = std::env::args().skip(1);
    let source = arguments
        .next()
        .unwrap_or_else(|| "videotestsrc is-live=true num-buffers=125 pattern=ball".into());
    let sink = arguments.next().unwrap_or_else(|| "fakesink sync=true".into());
    let pipeline = gst::parse::launch(&format!(
        "compositor name=both sink_1::xpos=640 ! videoconvert ! {sink} \
         {source} ! videoconvert ! videoscale ! video/x-raw,format=I420,width=640,height=360 ! tee name=camera \
         camera. ! queue max-size-time=2000000000 max-size-bytes=0 max-size-buffers=0 ! both. \
         camera. ! queue leaky=downstream ! tvcenc ! identity name=link silent=false ! tvcdec ! queue ! both."
    ))?;
    let bin = pipeline.downcast_ref::<gst::Bin>().expect("a pipeline is a bin");
    let link = bin.by_name("link").expect("the pipeline has a link");
    let bytes = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = bytes.clone();
    let pad = link.static_pad("src").expect("identity has a source pad");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let size = info.buffer().map_or(0, |b| b.size());
        counter.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing)?;
    let started = std::time::Instant::now();
    let bus = pipeline.bus().expect("a pipeline has a bus");
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => return Err(error.error().into()),
            // Coding or painting takes longer than was thought.
            gst::MessageView::Latency(_) => bin.recalculate_latency()?,
            _ => {}
        }
    }
    let bits = 8 * bytes.load(std::sync::atomic::Ordering::Relaxed);
    println!("{:.1} kbit/s", bits as f64 / 1000.0 / started.elapsed().as_secs_f64());
    pipeline.set_state(gst::State::Null)?;
    Ok(())
}
