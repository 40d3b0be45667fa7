//! Who may ask how the daemon is? Anybody who reaches the address: Prometheus, a health check, a person with a browser.
//!
//! A server for reading only, on a thread and runtime of its own, so that no worker waits for it. What a client can cost is
//! bounded below: a slow one, one that never reads and one that never asks are cut off, and one answer is a connection.

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

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Time for a client to say what it wants. A scraper says so at once; the others must not keep it waiting for its whole timeout.
const HEADER_TIME: Duration = Duration::from_secs(3);
/// Time for a connection from its first octet to its last, below Prometheus' scrape timeout of ten seconds.
const CONNECTION_TIME: Duration = Duration::from_secs(8);
/// Octets of a request's head, and its header lines.
const HEAD: usize = 16 << 10;
const HEADER_LINES: usize = 64;
/// Pause after the system gave no connection (no file descriptor left): it would say so again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What Prometheus wants to hear; version 3 refuses a scrape without it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page's script and style come from here and nothing else from anywhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("can't listen on {address} for /metrics and /status: {source}; is another spiked running? Set another address")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("can't start the thread that serves /metrics and /status: {0}")]
    Thread(io::Error),
}

/// The server; dropping it ends its thread.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the address and serves `metrics` on a thread of its own.
    ///
    /// # Errors
    /// Where the address can't be had, or no thread.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>) -> Result<Self, HttpError> {
        Self::serve(bind(address)?, metrics, Vec::new())
    }

    /// Serves `metrics` on a listener that [`bind`] gave before privileges were dropped; `names` are those by which browsers may
    /// ask, besides addresses and localhost.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn serve(listener: TcpListener, metrics: Arc<Metrics>, names: Vec<String>) -> Result<Self, HttpError> {
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
                    () = accept(listener, routes(metrics, names.into())) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("spiked-http".into()).spawn(serve).map_err(HttpError::Thread)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens: the port that the system chose where the settings said 0.
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

/// Takes the address.
///
/// # Errors
/// Where it can't be had.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| HttpError::Listen { address, source })
}

async fn accept(listener: tokio::net::TcpListener, routes: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let conversation = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .max_buf_size(HEAD)
                .max_headers(HEADER_LINES)
                .keep_alive(false)
                // Who has said all that they want and closes that half (`nc -N`) is answered all the same.
                .half_close(true)
                .serve_connection(TokioIo::new(connection), service);
            // What goes wrong here is the client's: it hears of it, or is gone.
            let _ = tokio::time::timeout(CONNECTION_TIME, conversation).await;
            drop(place);
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
        .route_layer(middleware::from_fn_with_state(names, by_known_name))
        // Nothing of traffic is in these, and scrapers and probes call a sensor by names that it does not know.
        .route("/metrics", get(async |State(m): State<Arc<Metrics>>| ([(header::CONTENT_TYPE, TEXT)], m.text())))
        .route("/healthz", get(async |State(m): State<Arc<Metrics>>| verdict(m.status().unhealthy)))
        .route("/readyz", get(async |State(m): State<Arc<Metrics>>| verdict(m.status().not_ready)))
        .fallback(async || (StatusCode::NOT_FOUND, "there is /, /metrics, /status, /healthz and /readyz\n"))
        .layer(middleware::from_fn(guard))
        .with_state(metrics)
}

/// 200 ok, or 503 and why.
fn verdict(trouble: Option<String>) -> Response {
    match trouble {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Refuses a browser that asks by a name that is not ours. A page from elsewhere can have its own name resolve to this machine
/// (DNS rebinding) and would then read what only those who reach this address may; it can't have the browser name an address.
async fn by_known_name(State(names): State<Arc<[String]>>, request: Request, next: middleware::Next) -> Response {
    let host = request.headers().get(header::HOST).map(|h| h.to_str().unwrap_or_default());
    let Some(unknown) = host.map(without_port).filter(|name| !is_known(name, &names)) else { return next.run(request).await };
    let said = format!("'{unknown}' is no name of this sensor: ask by its address, or put the name into metrics.names\n");
    (StatusCode::MISDIRECTED_REQUEST, said).into_response()
}

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

/// What every answer says to browsers.
async fn guard(request: Request, next: middleware::Next) -> Result<Response, Infallible> {
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
