//! Accepts HTTP connections. Whoever comes is let in: when there are too many connections, of all
//! or of one address, the one that has been silent for longest goes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Uri;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service as _;
use tracing::{debug, warn};

/// A client that sends no whole header for so long is cut off; between two requests too.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for so long is cut off.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// Bytes of a request's line and header fields.
const HEADER_BYTES_MAX: usize = 64 * 1024;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// One address has no more than one part in so many of all connections.
const ADDRESS_PART: usize = 2;
/// An IPv6 client chooses the lower half of its address.
const IPV6_NETWORK: u128 = !0 << 64;

/// Serves connections of a listener until it is aborted.
pub async fn listen(listener: TcpListener, router: Router, connections_max: usize) {
    let open = Arc::new(Open::new(connections_max));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(connection) = Open::enter(&open, from.ip()) else {
                    debug!(%from, "too many HTTP connections, and all are being answered");
                    continue;
                };
                tokio::spawn(converse(stream, from, router.clone(), connection));
            }
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, router: Router, connection: HttpConnection) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%from, %error, "cannot set TCP_NODELAY");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let leave = Arc::clone(&connection.0.leave);
    let service = service_fn(|request| {
        let begun = connection.begin();
        let answer = router.clone().call(prepared(request, from));
        async move {
            let answer = answer.await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answering {
                body,
                _begun: begun,
            }))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::select! {
        served = served => if let Err(error) = served {
            debug!(%from, %error, "HTTP connection lost");
        },
        () = leave.notified() => debug!(%from, "silent HTTP connection closed to let another in"),
    }
}

/// A request with its client's address, and with a path that ends in no slash.
fn prepared(mut request: hyper::Request<Incoming>, from: SocketAddr) -> hyper::Request<Incoming> {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() < path.len() && !trimmed.is_empty() {
        let query = request.uri().query();
        let place = query.map_or_else(|| trimmed.to_owned(), |query| format!("{trimmed}?{query}"));
        if let Ok(uri) = place.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request.extensions_mut().insert(from);
    request
}

/// The connections of one listener.
#[derive(Debug)]
struct Open {
    max: usize,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// How many there are of each address.
    of_address: HashMap<IpAddr, usize>,
    count: usize,
    /// Those whose turn it is to say something, by when they fell silent.
    silent: BTreeMap<u64, Silent>,
    next: u64,
}

#[derive(Debug)]
struct Silent {
    address: IpAddr,
    leave: Arc<Notify>,
}

impl Open {
    fn new(max: usize) -> Self {
        Self {
            max,
            connections: Mutex::default(),
        }
    }

    /// Takes note of a new connection. When there is no room for it the one that was silent for
    /// longest has to leave: of the same address if that has too many. None when nobody is silent.
    fn enter(open: &Arc<Self>, address: IpAddr) -> Option<HttpConnection> {
        let address = network(address);
        let mut connections = open.connections.lock();
        let own = connections.of_address.get(&address).copied().unwrap_or(0);
        if own >= open.max.div_ceil(ADDRESS_PART) {
            connections.send_away(|silent| silent.address == address)?;
        } else if connections.count >= open.max {
            connections.send_away(|_| true)?;
        }
        connections.count += 1;
        *connections.of_address.entry(address).or_default() += 1;
        let leave = Arc::new(Notify::new());
        let order = connections.fall_silent(address, &leave);
        drop(connections);
        Some(HttpConnection(Arc::new(ConnectionPlace {
            open: Arc::clone(open),
            address,
            leave,
            silent: Mutex::new(Some(order)),
        })))
    }
}

impl Connections {
    fn fall_silent(&mut self, address: IpAddr, leave: &Arc<Notify>) -> u64 {
        let order = self.next;
        self.next += 1;
        let leave = Arc::clone(leave);
        self.silent.insert(order, Silent { address, leave });
        order
    }

    /// Its place is free at once; it leaves a little later.
    fn send_away(&mut self, which: impl Fn(&Silent) -> bool) -> Option<()> {
        let mut silent = self.silent.iter();
        let order = *silent.find(|(_, silent)| which(silent))?.0;
        let gone = self.silent.remove(&order)?;
        self.remove(gone.address);
        gone.leave.notify_one();
        Some(())
    }

    fn remove(&mut self, address: IpAddr) {
        self.count -= 1;
        if let Some(count) = self.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
struct HttpConnection(Arc<ConnectionPlace>);

/// Its place among the others.
#[derive(Debug)]
struct ConnectionPlace {
    open: Arc<Open>,
    address: IpAddr,
    leave: Arc<Notify>,
    /// Where it stands among the silent ones; none while it is being answered.
    silent: Mutex<Option<u64>>,
}

impl HttpConnection {
    /// It has asked for something, and does not count as silent until it has its answer.
    fn begin(&self) -> BeingAnswered {
        let mut silent = self.0.silent.lock();
        if let Some(order) = *silent {
            let found = self.0.open.connections.lock().silent.remove(&order);
            // One that has been sent away keeps its mark: its place is another's.
            if found.is_some() {
                *silent = None;
            }
        }
        drop(silent);
        BeingAnswered(Arc::clone(&self.0))
    }
}

/// A request that is being answered.
#[derive(Debug)]
struct BeingAnswered(Arc<ConnectionPlace>);

impl Drop for BeingAnswered {
    fn drop(&mut self) {
        let place = &self.0;
        let mut silent = place.silent.lock();
        if silent.is_none() {
            let mut connections = place.open.connections.lock();
            *silent = Some(connections.fall_silent(place.address, &place.leave));
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let silent = *self.silent.lock();
        let mut connections = self.open.connections.lock();
        let has_place = silent.is_none_or(|order| connections.silent.remove(&order).is_some());
        if has_place {
            connections.remove(self.address);
        }
    }
}

/// The body of an answer, until whose end the connection is not silent.
struct Answering {
    body: Body,
    _begun: BeingAnswered,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Duration = Duration::from_millis(1);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn is_sent_away(connection: &HttpConnection) -> bool {
        let left = connection.0.leave.notified();
        tokio::time::timeout(GONE, left).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_silent_one_of_an_address_leaves_and_one_that_is_answered_does_not() {
        let open = Arc::new(Open::new(6));
        let other = Open::enter(&open, address(2)).unwrap();
        let own: Vec<_> = (0..3)
            .map(|_| Open::enter(&open, address(1)).unwrap())
            .collect();
        let answered = own[0].begin();
        let fourth = Open::enter(&open, address(1)).unwrap();
        assert!(!is_sent_away(&other).await);
        assert!(!is_sent_away(&own[0]).await);
        assert!(is_sent_away(&own[1]).await);
        // What has its answer was silent for less time than the others.
        drop(answered);
        let fifth = Open::enter(&open, address(1)).unwrap();
        assert!(is_sent_away(&own[2]).await);
        drop((own, fourth, fifth, other));
        let connections = open.connections.lock();
        assert_eq!((connections.count, connections.silent.len()), (0, 0));
        assert!(connections.of_address.is_empty());
    }

    #[tokio::test]
    async fn when_all_places_are_taken_the_oldest_silent_one_of_anybody_leaves() {
        let open = Arc::new(Open::new(4));
        let all: Vec<_> = (0..4)
            .map(|last| Open::enter(&open, address(last)).unwrap())
            .collect();
        let newcomer = Open::enter(&open, address(9)).unwrap();
        assert!(is_sent_away(&all[0]).await);
        // One that asks after it was sent away has no place to give up.
        drop(all[0].begin());
        let begun: Vec<_> = all[1..].iter().map(HttpConnection::begin).collect();
        let last = newcomer.begin();
        assert!(Open::enter(&open, address(8)).is_none(), "all are answered");
        drop((begun, last, all, newcomer));
        assert_eq!(open.connections.lock().count, 0);
    }
}
