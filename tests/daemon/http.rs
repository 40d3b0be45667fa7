//! Tests of the HTTP server: its responses, clients that misbehave, and untrusted text in the page.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use crate::common::telemetry::Telemetry;
use crate::common::{PATIENCE, skip, wait_until};
use spiked::export::http::{Server, bind};
use spiked::export::status::LearningTaskStatus;
use spiked::model::Model;

fn start(telemetry: &Telemetry) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&telemetry.metrics)).unwrap()
}

/// The complete response to the bytes that a client sends.
fn exchange(server: &Server, request: &[u8]) -> String {
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = client.write_all(request);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(server: &Server, path: &str) -> String {
    exchange(server, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

#[test]
fn each_path_has_its_status_and_content_type() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("dns-1.pcap");
    let server = start(&telemetry);
    let metrics = get(&server, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nspiked_frames_total "));

    let status = get(&server, "/status");
    let status: serde_json::Value = serde_json::from_str(status.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(status["sensor"], "hall-3");
    assert_eq!(status["models"][0]["name"], "protocols");
    assert_eq!(status["interfaces"][0]["dropped"]["kernel"], 18);
    assert_eq!(status["classes"][0]["class"], "dns");
    assert_eq!(status["totals"]["detections"], status["classes"][0]["detections"]);
    assert_eq!(status["detections"][0]["class"], "dns");
    assert_eq!(status["detections"][0]["basis"], "content");
    let reasons = status["totals"]["unknown_reasons"].as_object().unwrap();
    assert_eq!(reasons.keys().map(String::as_str).collect::<Vec<_>>(), ["no_payload", "unlike_any", "unsure"]);
    assert_eq!(status["streams_live"], 43);

    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = get(&server, path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("content-type: {kind}")), "{answer}");
        assert!(
            answer.contains("content-security-policy: default-src 'none';") && answer.contains("x-content-type-options: nosniff")
        );
    }
    assert!(get(&server, "/other").starts_with("HTTP/1.1 404"));
}

#[test]
fn health_and_readiness_follow_the_daemon() {
    let telemetry = Telemetry::built_in();
    let server = start(&telemetry);
    assert!(get(&server, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get(&server, "/readyz").ends_with("\r\n\r\nok\n"));
    telemetry.status.lock().unwrap().not_ready = Some("eth0 can't be opened".into());
    let answer = get(&server, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("eth0 can't be opened\n"), "{answer}");
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
    telemetry.status.lock().unwrap().unhealthy = Some("worker 1 is stuck".into());
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 503"));
}

/// DNS rebinding: a page of another site whose name now resolves to the sensor can't read from it.
#[test]
fn requests_with_another_host_name_are_rejected() {
    let telemetry = Telemetry::built_in();
    let names = vec!["Sensor.example.org".to_string()];
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::serve(listener, Arc::clone(&telemetry.metrics), names).unwrap();
    let ask = |path: &str, host: &str| exchange(&server, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    for path in ["/", "/status", "/page.js", "/page.css"] {
        for known in
            ["127.0.0.1:9184", "192.0.2.1", "[::1]:9184", "[::1]", "localhost:80", "LOCALHOST.", "sensor.example.org:443"]
        {
            assert!(ask(path, known).starts_with("HTTP/1.1 200"), "{path} by {known}");
        }
        let foreign = [
            "evil.example",
            "evil.example:9184",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "org",
            "",
            "[::1",
            "\u{e9}",
        ];
        for foreign in foreign {
            let answer = ask(path, foreign);
            assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("hall-3"), "{path} by '{foreign}': {answer}");
        }
    }
    // Scrapers and probes may use any name, and a client without a Host header is not a browser.
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(ask(path, "prometheus-calls-it.example").starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(exchange(&server, b"GET /status HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
}

#[test]
fn only_reading_is_allowed() {
    let server = start(&Telemetry::built_in());
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let answer =
            exchange(&server, format!("{method} /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    let head = exchange(&server, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn invalid_and_too_long_requests_are_rejected() {
    let server = start(&Telemetry::built_in());
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let lines = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "x: y\r\n".repeat(1000));
    let path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(1 << 20));
    for request in [
        long.as_bytes(),
        lines.as_bytes(),
        path.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let answer = exchange(&server, request);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
}

/// Clients that send nothing, send one byte at a time or never read, more of them than the server has slots: a scrape is still answered, and
/// these clients are disconnected.
#[test]
fn slow_clients_do_no_harm() {
    let telemetry = Telemetry::built_in();
    telemetry.replay("mixed.pcapng");
    let server = start(&telemetry);
    let mut clients: Vec<TcpStream> = (0..90).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 3 {
            0 => {}
            1 => client.write_all(b"GET /metr").unwrap(),
            _ => client.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(),
        }
    }
    // That this takes less than the timeout of Prometheus follows from the limits of the server, which are asserted where they are defined;
    // `benches/latency.py` measures it.
    assert!(get(&server, "/metrics").contains("spiked_frames_total"));
    for (number, client) in clients.iter_mut().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        let read = client.read_to_end(&mut answer);
        let cut = read.is_ok() || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(cut, "client {number} is still connected");
    }
}

/// Whether the kernel still has an established connection from a local port to a remote one, both of loopback.
fn established(local: u16, remote: u16) -> bool {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| field.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        port(fields[1]) == Some(local) && port(fields[2]) == Some(remote) && fields[3] == ESTABLISHED
    })
}

/// A client that requests more than the kernel buffers and never reads: the rest is discarded and its slot is freed.
#[test]
fn a_client_that_never_reads_is_disconnected() {
    let mut model = Model::built_in().unwrap();
    for (number, class) in model.classes.iter_mut().enumerate() {
        *class = format!("{number}-{}", "x".repeat(100_000));
    }
    let telemetry = Telemetry::new(vec![Arc::new(model)]);
    let server = start(&telemetry);
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_until("the server closes its side", || !established(server.address().port(), client.local_addr().unwrap().port()));
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    let whole = telemetry.text().len();
    assert!(whole > 20_000_000 && answer.len() < whole / 2, "{} of {whole} bytes were buffered for it", answer.len());
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn fifty_clients_are_served_at_once() {
    let telemetry = Telemetry::built_in();
    let server = start(&telemetry);
    let answers = std::thread::scope(|scope| {
        let ask = |n: usize| get(&server, ["/", "/status", "/metrics", "/healthz"][n % 4]);
        let clients: Vec<_> = (0..50).map(|n| scope.spawn(move || (0..10).map(|_| ask(n)).collect::<Vec<_>>())).collect();
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|a| a.starts_with("HTTP/1.1 200")));
}

#[test]
fn an_address_in_use_is_reported_and_a_dropped_server_frees_it() {
    let telemetry = Telemetry::built_in();
    // An address that no other test binds or connects from: its port must stay free once it is released.
    let server = Server::start("127.98.0.1:0".parse().unwrap(), Arc::clone(&telemetry.metrics)).unwrap();
    let address = server.address();
    let printed = bind(address).unwrap_err().to_string();
    assert!(printed.contains(&address.to_string()) && printed.contains("another"), "{printed}");
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

/// What a browser makes of the page after its script has run; `None` without a browser.
fn in_browser(server: &Server) -> Option<Output> {
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", server.address());
    let chromium = Command::new("timeout")
        .args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=1500"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", &url])
        .output();
    let chromium = chromium.ok().filter(|c| c.status.code() != Some(127));
    if chromium.is_none() {
        skip("chromium (Debian package chromium)");
    }
    chromium
}

/// In the recording one host sweeps the net.
#[test]
fn episodes_are_in_the_status_and_on_the_page() {
    let telemetry = Telemetry::new(vec![Arc::new(Model::open(Path::new("behaviours")).unwrap())]);
    telemetry.replay("../behaviours/test/scan.host-10.pcap.zst");
    let server = start(&telemetry);
    let answer = get(&server, "/status");
    let status: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let episode = &status["episodes"][0];
    assert!(episode["class"] == "scan.host" && episode["host"] == "10.58.224.58" && episode["role"] == "source", "{episode}");
    assert!(episode["state"] == "end" && episode["peers"].as_u64() > Some(10), "the capture ends: {episode}");
    let Some(chromium) = in_browser(&server) else { return };
    let page = String::from_utf8_lossy(&chromium.stdout);
    assert!(page.contains("10.58.224.58<span class=\"why\">begins the flows</span>"), "{page}");
    assert!(page.contains(">ended after ") && !page.contains("id=\"attacks\" hidden"), "{page}");
}

/// The page in a browser: hostile names are text in it, and its script ran.
#[test]
fn the_page_shows_hostile_names_as_text() {
    let hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let mut model = Model::built_in().unwrap();
    for class in model.classes.iter_mut().filter(|c| *c == "dns") {
        *class = hostile.into();
    }
    let telemetry = Telemetry::new(vec![Arc::new(model)]);
    {
        let mut status = telemetry.status.lock().unwrap();
        status.sensor = hostile.into();
        status.interfaces[0].name = hostile.into();
        status.interfaces[0].filter = Some(hostile.into());
        status.interfaces[1].last_error = Some(hostile.into());
        status.sinks[1].last_error = Some(hostile.into());
        status.hardening = vec![hostile.into()];
        status.learning.tasks =
            vec![LearningTaskStatus { model: hostile.into(), class: hostile.into(), ..LearningTaskStatus::default() }];
    }
    telemetry.replay("dns-1.pcap");
    let server = start(&telemetry);
    let Some(chromium) = in_browser(&server) else { return };
    let page = String::from_utf8_lossy(&chromium.stdout);
    let text = hostile.replace('<', "&lt;").replace('>', "&gt;");
    assert!(
        page.matches(&text).count() >= 9,
        "the script did not fill the page:\n{page}\n{}",
        String::from_utf8_lossy(&chromium.stderr)
    );
    assert!(!page.contains("<img") && page.matches("<script").count() == 1, "{page}");
    assert!(page.contains(&format!("<title>{text}")), "{page}");
    assert!(page.contains(">ready<"), "{page}");
}
