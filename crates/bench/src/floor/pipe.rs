//! `pipe`: receives 64 KiB from a publisher and sends it to its consumer, bytes unseen.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// First byte of a publisher's connection; the second is the pair's number.
pub const PUBLISHER: u8 = b'P';
/// First byte of a consumer's connection.
pub const CONSUMER: u8 = b'C';

/// Bytes of one receive.
const READ_BYTES: usize = 64 * 1024;

/// Serves pairs for ever: a consumer connects first, then its publisher.
pub fn serve(listener: &TcpListener) -> std::io::Result<()> {
    let mut waiting = HashMap::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut role = [0; 2];
        if stream.read_exact(&mut role).is_err() {
            continue; // somebody only looked whether the port is open
        }
        let [role, pair] = role;
        if role == CONSUMER {
            let acks = stream.try_clone()?;
            thread::spawn(move || discard(acks));
            waiting.insert(pair, stream);
        } else if let Some(consumer) = waiting.remove(&pair) {
            thread::spawn(move || forward(stream, consumer));
        }
    }
}

/// Ends with either connection: nothing is left to do then.
fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn discard(mut from: TcpStream) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(1..) = from.read(&mut buffer) {}
}
