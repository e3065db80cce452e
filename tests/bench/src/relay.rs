//! A wire between a process and a server: counts what passes, and takes time.
//!
//! Threads and not tasks: a sleeping thread wakes up within a tenth of a
//! millisecond, a timer of the runtime within one.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// What has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) connections: u64,
    /// To the server, encrypted.
    pub(crate) up: u64,
    /// From the server, encrypted.
    pub(crate) down: u64,
}

impl std::ops::Sub for Passed {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            connections: self.connections - before.connections,
            up: self.up - before.up,
            down: self.down - before.down,
        }
    }
}

#[derive(Default)]
struct Shared {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    round_trip_micros: AtomicU64,
}

impl Shared {
    fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_micros.load(Relaxed))
    }
}

/// A port on this machine that leads to a server.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                shared.connections.fetch_add(1, Relaxed);
                // A connection that fails is the client's to notice.
                thread::spawn(move || drop(connect(client, server, &shared)));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What every round trip takes from now on, that of connecting included.
    pub(crate) fn set_round_trip(&self, time: Duration) {
        self.shared.round_trip_micros.store(u64::try_from(time.as_micros()).unwrap(), Relaxed);
    }

    pub(crate) fn passed(&self) -> Passed {
        Passed {
            connections: self.shared.connections.load(Relaxed),
            up: self.shared.up.load(Relaxed),
            down: self.shared.down.load(Relaxed),
        }
    }
}

fn connect(client: TcpStream, server: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    // The client's `connect` has returned already: its round trip is spent here.
    thread::sleep(shared.round_trip());
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    pump(client.try_clone()?, server.try_clone()?, Arc::clone(shared), |shared| &shared.up);
    pump(server, client, Arc::clone(shared), |shared| &shared.down);
    Ok(())
}

/// One direction: what is read now is written half a round trip later, and what
/// comes meanwhile is on its way, too.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: Arc<Shared>, count: fn(&Shared) -> &AtomicU64) {
    let (line, arriving) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            count(&shared).fetch_add(read as u64, Relaxed);
            let due = Instant::now() + shared.round_trip() / 2;
            if line.send((due, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
