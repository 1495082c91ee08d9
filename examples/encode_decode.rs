// SPDX-License-Identifier: MPL-2.0
//! Pictures of an application to TVC and back, with appsrc and appsink.
//!
//! `cargo run --release --example encode_decode`

use gst::prelude::*;

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAMES: u64 = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    gst::init()?;
    gsttvc::plugin_register_static()?;
    let units = encode()?;
    let bytes: usize = units.iter().map(|u| u.size()).sum();
    println!("{FRAMES} frames in {} access units, {bytes} bytes", units.len());
    println!("{} frames decoded", decode(units)?);
    Ok(())
}

/// A grey picture with a white square that moves.
fn picture(t: u64) -> gst::Buffer {
    let mut samples = vec![128u8; WIDTH * HEIGHT * 3 / 2];
    for y in 80..160 {
        let x = 2 * t as usize;
        samples[y * WIDTH + x..][..80].fill(235);
    }
    let mut buffer = gst::Buffer::from_mut_slice(samples);
    let timed = buffer.get_mut().expect("a new buffer is writable");
    timed.set_pts(t * gst::ClockTime::from_mseconds(40));
    buffer
}

fn encode() -> Result<Vec<gst::Buffer>, Box<dyn std::error::Error>> {
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=src format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=25/1 \
         ! tvcenc ! appsink name=sink sync=false"
    ))?;
    let source = child::<gst_app::AppSrc>(&pipeline, "src");
    pipeline.set_state(gst::State::Playing)?;
    for t in 0..FRAMES {
        source.push_buffer(picture(t))?;
    }
    source.end_of_stream()?;
    pull_all(&pipeline)
}

fn decode(units: Vec<gst::Buffer>) -> Result<usize, Box<dyn std::error::Error>> {
    let pipeline = gst::parse::launch(
        "appsrc name=src format=time caps=video/x-tvc ! tvcparse ! tvcdec ! video/x-raw,format=RGB \
         ! appsink name=sink sync=false",
    )?;
    let source = child::<gst_app::AppSrc>(&pipeline, "src");
    pipeline.set_state(gst::State::Playing)?;
    for unit in units {
        source.push_buffer(unit)?;
    }
    source.end_of_stream()?;
    Ok(pull_all(&pipeline)?.len())
}

fn child<T: IsA<gst::Element>>(pipeline: &gst::Element, name: &str) -> T {
    let bin = pipeline.downcast_ref::<gst::Bin>().expect("a pipeline is a bin");
    let element = bin.by_name(name).expect("the pipeline has such an element");
    let downcast = element.downcast();
    downcast.unwrap_or_else(|element| panic!("{} has another type", element.name()))
}

/// All buffers up to the end of the stream; stops the pipeline.
fn pull_all(pipeline: &gst::Element) -> Result<Vec<gst::Buffer>, Box<dyn std::error::Error>> {
    let sink = child::<gst_app::AppSink>(pipeline, "sink");
    let samples = std::iter::from_fn(|| sink.pull_sample().ok());
    let buffers = samples.filter_map(|sample| sample.buffer_owned()).collect();
    // No sample is the end of the stream, or an error: the bus tells.
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let error = bus.pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null)?;
    match error.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().into()),
        _ => Ok(buffers),
    }
}
