//! `sync-floor`: reads a message, hands it to another thread, which writes, syncs and confirms.
//!
//! What a confirm after the disk costs at least with one message on its way. No handshake.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::floor::journal::Disk;
use crate::floor::relay::Publish;
use crate::wire::{BASIC_ACK, Method};

const READ_BYTES: usize = 64 * 1024;

/// Serves one connection after the other for ever, with a new file at `path`.
pub fn serve(listener: &TcpListener, path: &Path) -> std::io::Result<()> {
    let mut disk = Disk::create(path)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let confirms = stream.try_clone()?;
        let (hand_over, messages) = mpsc::sync_channel(1024);
        let reader = thread::spawn(move || read(stream, &hand_over));
        confirm(confirms, &messages, &mut disk)?;
        // It has ended: nothing else closes its end of the channel.
        drop(reader.join());
    }
}

/// Hands over each message; ends with the connection.
fn read(mut stream: TcpStream, hand_over: &mpsc::SyncSender<Vec<u8>>) {
    let mut input = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..count]);
        while let Some(bytes) = Publish::read(&input).map(|publish| publish.bytes) {
            if hand_over.send(input.drain(..bytes).collect()).is_err() {
                return;
            }
        }
    }
}

fn confirm(
    mut stream: TcpStream,
    messages: &mpsc::Receiver<Vec<u8>>,
    disk: &mut Disk,
) -> std::io::Result<()> {
    for (tag, mut message) in (1..).zip(messages) {
        disk.write_and_sync(&mut message)?;
        let ack = Method::new(1, BASIC_ACK).u64(tag).u8(0).finish();
        if stream.write_all(&ack).is_err() {
            break;
        }
    }
    Ok(())
}
