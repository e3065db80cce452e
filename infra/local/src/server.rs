//! A server on the loopback address, and only there.

use std::{
    future::IntoFuture as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, middleware::from_fn};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet, time::timeout};

use crate::guard::guard;

/// How long requests may finish once the server is to end. A registration may work
/// for 25 s, but whoever ends the server doesn't wait for that.
const GRACE: Duration = Duration::from_secs(2);

/// Dropped, it stops at once; [`Server::stop`] lets requests finish.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    serving: JoinSet<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Server {
    /// Takes a port of 127.0.0.1, for programs of this machine. 0: any that is free.
    pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
    }

    pub(crate) fn start(router: Router, listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let served = axum::serve(listener, router.layer(from_fn(guard)));
        // Whether it is told or dropped: both mean the end.
        let served = served.with_graceful_shutdown(async { drop(stopped.await) });
        let mut serving = JoinSet::new();
        serving.spawn(served.into_future());
        Ok(Self { address, serving, stop })
    }

    /// Accepts nothing more, lets requests finish for a moment, and closes the rest.
    pub(crate) async fn stop(mut self) {
        drop(self.stop);
        if timeout(GRACE, self.serving.join_next()).await.is_err() {
            self.serving.shutdown().await;
        }
    }
}
