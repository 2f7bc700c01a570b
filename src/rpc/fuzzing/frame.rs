//! A stream of frames.

use bytes::{Bytes, BytesMut};

use super::trickle::{Trickle, at_once};
use crate::fuzzing::{Target, few_times};
use crate::rpc::ProtocolError;
use crate::rpc::frame::{Frame, FrameError, FrameReader, LENGTH_BYTES};

pub(crate) const TARGET: Target = Target {
    name: "frame",
    run,
    seeds,
    // The reader holds what came, and has room for one more read; while it grows, twice.
    memory_bytes_max: |bytes| few_times(bytes) + 3 * 16 * 1024,
};

/// The first byte says how large a frame may be, the second how many bytes come at a time.
fn run(bytes: &[u8]) {
    let [limit, step, stream @ ..] = bytes else {
        return;
    };
    let payload_bytes_max = LIMITS[usize::from(*limit) % LIMITS.len()];
    let io = Trickle::new(stream, usize::from(*step) * 64 + 1);
    let mut reader = FrameReader::new(io, BytesMut::new(), payload_bytes_max);
    let mut read = Vec::new();
    let end = loop {
        match at_once(reader.next()) {
            Ok(Some(payload)) => {
                assert!(!payload.is_empty() && payload.len() <= payload_bytes_max);
                let frame = Frame::new(vec![0; LENGTH_BYTES], payload);
                read.extend_from_slice(&frame.head);
                read.extend_from_slice(&frame.tail);
                assert_eq!(frame.bytes(), LENGTH_BYTES + frame.payload_bytes());
            }
            Ok(None) => break None,
            Err(FrameError::Protocol(error)) => break Some(error),
            Err(FrameError::Io(error)) => panic!("{error}"),
        }
    };
    let rest = stream.strip_prefix(&read[..]).expect("frames are in order");
    let announced = rest
        .first_chunk()
        .map(|length| u32::from_le_bytes(*length) as usize);
    match end {
        None => assert!(rest.is_empty()),
        Some(ProtocolError::FrameEmpty) => assert_eq!(announced, Some(0)),
        Some(ProtocolError::FrameTooLong { length, max }) => {
            assert!(length > max && announced == Some(length) && max == payload_bytes_max);
        }
        Some(ProtocolError::Truncated) => assert!(!rest.is_empty()),
        Some(error) => panic!("{error}"),
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |payload: &[u8]| {
        let frame = Frame::new(vec![0; LENGTH_BYTES], Bytes::copy_from_slice(payload));
        [&frame.head[..], &frame.tail[..]].concat()
    };
    let with = |limit: u8, step: u8, stream: &[u8]| [&[limit, step], stream].concat();
    vec![
        ("one", with(1, 0, &frame(b"hello"))),
        (
            "three",
            with(
                1,
                1,
                &[frame(b"a"), frame(b"bc"), frame(&[7; 300])].concat(),
            ),
        ),
        ("largest", with(0, 0, &frame(&[1; 16]))),
        ("too-long", with(0, 0, &frame(&[1; 17]))),
        ("empty", with(1, 0, &[0, 0, 0, 0])),
        ("promise", with(3, 0, &[0, 0, 0x20, 0, 1])),
        ("many", with(2, 255, &frame(&[9; 40]).repeat(8))),
    ]
}

const LIMITS: [usize; 4] = [16, 4 * 1024, 64 * 1024, 2 * 1024 * 1024];
