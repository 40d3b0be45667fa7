//! The HTTP server for metrics, status, health checks and the page.
//!
//! It is read-only and without authentication: any client that can reach the address may use it. It runs on a thread and runtime of its
//! own, so no worker waits for it. The constants below limit what a client can cost: connections that are slow, do not read or do not send a
//! request are closed, and each connection serves one request.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use super::Metrics;

/// Maximum number of concurrent connections; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Maximum time for a client to send its request. Scrapers send theirs at once; idle clients must not occupy connections for as long as
/// a scraper's timeout.
const HEADER_TIME: Duration = Duration::from_secs(3);
/// Maximum duration of a connection, below Prometheus' scrape timeout of 10 s.
const CONNECTION_TIME: Duration = Duration::from_secs(8);
const _: () = assert!(CONNECTION_TIME.as_secs() < 10 && HEADER_TIME.as_secs() < CONNECTION_TIME.as_secs());
/// Maximum length of a request's head, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// Maximum number of header lines of a request.
const HEADER_LINES: usize = 64;
/// Pause after a failed accept, for instance without free file descriptors, where the next one would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Content type of Prometheus' text format; Prometheus 3 rejects a scrape without it.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content security policy: the page loads scripts, styles and data from this server only, and nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address could not be bound.
    #[error("can't listen on {address} for /metrics and /status: {source}; is another spiked running? Set another address")]
    Listen {
        /// The address from the settings.
        address: SocketAddr,
        /// Why it could not be bound.
        source: io::Error,
    },
    /// The thread or its runtime could not be started.
    #[error("can't start the thread that serves /metrics and /status: {0}")]
    Thread(io::Error),
}

/// The running server; dropping it stops its thread.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the address and serves `metrics` on a thread of its own.
    ///
    /// # Errors
    /// If the address can't be bound or the thread can't be started.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>) -> Result<Self, HttpError> {
        Self::serve(bind(address)?, metrics, Vec::new())
    }

    /// Serves `metrics` on a listener that [`bind`] returned before privileges were dropped. `names` are the host names by which
    /// browsers may request pages, besides IP addresses and localhost.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn serve(listener: TcpListener, metrics: Arc<Metrics>, names: Vec<String>) -> Result<Self, HttpError> {
        Self::serve_routes(listener, routes(metrics, names.into()))
    }

    /// Serves routes on a listener that [`bind`] returned, with the security headers.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn serve_routes(listener: TcpListener, routes: Router) -> Result<Self, HttpError> {
        let address = listener.local_addr().map_err(HttpError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(HttpError::Thread)?
        };
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, routes.layer(middleware::from_fn(security_headers))) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("spiked-http".into()).spawn(serve).map_err(HttpError::Thread)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The bound address. If the settings have port 0, it holds the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds the address.
///
/// # Errors
/// If it can't be bound.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| HttpError::Listen { address, source })
}

async fn accept(listener: tokio::net::TcpListener, routes: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADER_LINES)
                .keep_alive(false)
                // A client that closes its sending half after the request (`nc -N`) still gets a response.
                .half_close(true)
                .serve_connection(TokioIo::new(connection), service);
            // Errors are the client's: hyper has sent it a response, or it is gone.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(slot);
        });
    }
}

fn routes(metrics: Arc<Metrics>, names: Arc<[String]>) -> Router {
    let asset = |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", asset("text/html; charset=utf-8", PAGE))
        .route("/page.css", asset("text/css; charset=utf-8", STYLE))
        .route("/page.js", asset("text/javascript; charset=utf-8", SCRIPT))
        .route("/status", get(async |State(m): State<Arc<Metrics>>| axum::Json(m.overview())))
        .route_layer(middleware::from_fn_with_state(names, check_host))
        // These show no traffic data, and scrapers and probes use host names that the sensor does not know.
        .route("/metrics", get(async |State(m): State<Arc<Metrics>>| ([(header::CONTENT_TYPE, TEXT)], m.text())))
        .route("/healthz", get(async |State(m): State<Arc<Metrics>>| health(m.status().unhealthy)))
        .route("/readyz", get(async |State(m): State<Arc<Metrics>>| health(m.status().not_ready)))
        .fallback(async || (StatusCode::NOT_FOUND, "not found; available paths: /, /metrics, /status, /healthz, /readyz\n"))
        .with_state(metrics)
}

/// The response of a health check: 200 and "ok", or 503 and the reason.
fn health(problem: Option<String>) -> Response {
    match problem {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Rejects requests by an unknown host name (status 421). A foreign web page can have its own host name resolve to this machine (DNS
/// rebinding) and would then read, in a browser that can reach this address, what it must not. It cannot make the browser send
/// an IP address as the host.
async fn check_host(State(names): State<Arc<[String]>>, request: Request, next: middleware::Next) -> Response {
    let host = request.headers().get(header::HOST).map(|h| h.to_str().unwrap_or_default());
    let Some(unknown) = host.map(without_port).filter(|name| !is_known(name, &names)) else { return next.run(request).await };
    let message =
        format!("'{unknown}' is not a known name of this sensor; use its IP address, or add the name to metrics.names\n");
    (StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

/// The host without its port; an IPv6 address in brackets keeps its colons.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    }
}

fn is_known(name: &str, names: &[String]) -> bool {
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.trim_end_matches('.').eq_ignore_ascii_case(name))
}

/// Adds the security headers of every response.
async fn security_headers(request: Request, next: middleware::Next) -> Result<Response, Infallible> {
    let mut response = next.run(request).await;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
