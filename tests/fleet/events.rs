//! Tests of the sink of type "nats": acknowledged events arrive once, whatever becomes of the servers.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use spiked::capture::Nanos;
use spiked::config::FleetConfig;
use spiked::export::sink::{Line, Severity, SinkHandle, Target};
use spiked::export::status::SinkStatus;
use spiked::fleet::connection::{Connection, runtime};

use super::common::net::{Daemon, Net, counted};
use super::common::{self, wait_for, wait_until};
use super::servers::{Server, events, init, sensor};

pub fn line(number: usize) -> Arc<Line> {
    let padding = "x".repeat(400);
    Arc::new(Line {
        text: format!("{{\"event_type\":\"detection\",\"number\":{number},\"padding\":\"{padding}\"}}"),
        timestamp: Nanos(0),
        severity: Severity::Informational,
        event: "detection",
        class: None,
    })
}

fn start(config: &FleetConfig) -> SinkHandle {
    SinkHandle::start("nats", &Target::Nats(Box::new(config.clone())), 65_536).expect("started")
}

/// Offers events at a rate for a time, from `first` on; returns the number after the last.
fn load(sink: &SinkHandle, first: usize, per_second: usize, time: Duration) -> usize {
    let begin = Instant::now();
    let mut offered = 0;
    while begin.elapsed() < time {
        let due = (begin.elapsed().as_secs_f64() * per_second as f64) as usize;
        for number in offered..due {
            sink.offer(&line(first + number));
        }
        offered = offered.max(due);
        thread::sleep(Duration::from_millis(2));
    }
    first + offered
}

/// Waits until all events are acknowledged, as long as some are: how long all take depends on the machine.
fn drained(sink: &SinkHandle) -> SinkStatus {
    let mut status = sink.status();
    while status.queued > 0 {
        let written = status.written;
        let more = |status: &SinkStatus| status.queued == 0 || status.written > written;
        status = wait_for("events are acknowledged", || Some(sink.status()).filter(more));
    }
    status
}

fn dropped(status: &SinkStatus) -> u64 {
    status.dropped.values().sum()
}

/// Numbers of the events that readers see.
fn numbers(url: &str) -> Vec<usize> {
    let number = |text: &String| {
        let event: serde_json::Value = serde_json::from_str(text).expect("JSON");
        event["number"].as_u64().expect("a number") as usize
    };
    events(url, &[]).iter().map(number).collect()
}

/// Asserts that the numbers are all from 0 to `end`, each once.
fn each_once(seen: &[usize], end: usize) {
    let all: HashSet<usize> = seen.iter().copied().collect();
    assert_eq!((seen.len(), all.len()), (end, end), "doubles or losses");
    assert!(all.iter().all(|&number| number < end));
}

fn segments(config: &FleetConfig) -> usize {
    let folder = config.spool.as_ref().expect("a spool");
    fs::read_dir(folder).expect("a folder").flatten().filter(|e| e.path().extension().is_some_and(|x| x == "events")).count()
}

#[test]
fn acknowledged_events_arrive_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    all_arrive(&[server.url()], &[], folder.path(), "one server");
    assert!(events(&server.url(), &["--sensor", "south"]).is_empty());
}

#[test]
fn acknowledged_events_arrive_once_in_three_copies() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(servers) = Server::three(folder.path()) else { return };
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    all_arrive(&urls, &["--replicas", "3"], folder.path(), "three copies");
}

/// Offers events as fast as the sink takes them, and asserts that each arrives once.
fn all_arrive(urls: &[String], more: &[&str], folder: &std::path::Path, what: &str) {
    assert!(init(&urls[0], more).status.success());
    let config = sensor("north", urls, folder);
    let sink = start(&config);
    let begin = Instant::now();
    let count = 50_000;
    for number in 0..count {
        while sink.status().queued > 60_000 {
            thread::sleep(Duration::from_millis(1));
        }
        sink.offer(&line(number));
    }
    let status = drained(&sink);
    println!("{:.0} events/s acknowledged, {what}", count as f64 / begin.elapsed().as_secs_f64());
    assert_eq!((status.written, dropped(&status), status.last_error), (count as u64, 0, None));
    assert_eq!(segments(&config), 0);
    sink.close(Instant::now() + Duration::from_secs(2));
    each_once(&numbers(&urls[0]), count);
}

/// Messages of the stream of events, with a given window in which the server drops doubles from now on.
fn stored(url: &str, window: Duration) -> u64 {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let context = async_nats::jetstream::new(connection.client);
        let mut stream = context.get_stream("SPIKED_EVENTS").await.expect("a stream").cached_info().config.clone();
        stream.duplicate_window = window;
        context.update_stream(stream).await.expect("updated").state.messages
    })
}

#[test]
fn a_server_stopped_for_longer_than_its_window_for_doubles_delays_events_and_loses_none() {
    const WINDOW: Duration = Duration::from_millis(100);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(server) = Server::alone(folder.path(), "") else { return };
    assert!(init(&server.url(), &[]).status.success());
    assert_eq!(stored(&server.url(), WINDOW), 0);
    let config = sensor("north", &[server.url()], folder.path());
    let sink = start(&config);
    let mut next = load(&sink, 0, 5000, Duration::from_secs(1));
    server.signal(libc::SIGSTOP);
    next = load(&sink, next, 5000, Duration::from_secs(10));
    let status = sink.status();
    assert!(status.queued > 40_000 && status.last_error.is_some(), "{status:?}");
    server.signal(libc::SIGCONT);
    next = load(&sink, next, 5000, Duration::from_secs(1));
    let status = drained(&sink);
    assert_eq!((status.written, dropped(&status), segments(&config)), (next as u64, 0, 0));
    println!("{} doubles stored, none printed by tail", stored(&server.url(), WINDOW) - next as u64);
    each_once(&numbers(&server.url()), next);
}

#[test]
fn spooled_events_survive_a_restart_with_their_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut server) = Server::alone(folder.path(), "") else { return };
    assert!(init(&server.url(), &[]).status.success());
    let config = sensor("north", &[server.url()], folder.path());
    server.kill();
    let sink = start(&config);
    let next = load(&sink, 0, 2000, Duration::from_millis(500));
    wait_until("the events are in the spool", || segments(&config) > 0 && sink.status().last_error.is_some());
    let last = sink.close(Instant::now() + Duration::from_secs(2));
    assert_eq!((last.written, dropped(&last), last.queued), (0, 0, next as u64), "the spool keeps them");
    let boots = |folder: &std::path::Path| {
        let names = fs::read_dir(folder).expect("a folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.split_once('-').map(|(boot, _)| boot.to_string())).collect::<HashSet<_>>()
    };
    let boot = boots(config.spool.as_deref().expect("a spool"));
    server.restart();
    let sink = start(&config);
    sink.offer(&line(next));
    drained(&sink);
    each_once(&numbers(&server.url()), next + 1);
    let ids = ids(&server.url());
    assert!(boot.iter().all(|boot| ids[0].starts_with(&format!("north-{boot}-"))), "{boot:?} {}", ids[0]);
    assert!(boot.iter().all(|boot| !ids[next].contains(boot.as_str())), "{boot:?} {}", ids[next]);
}

/// Ids of the events of the stream, in its order.
fn ids(url: &str) -> Vec<String> {
    let config = FleetConfig { servers: vec![url.into()], ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let stream = async_nats::jetstream::new(connection.client).get_stream("SPIKED_EVENTS").await.expect("a stream");
        let count = stream.cached_info().state.messages;
        let consumer = stream.create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default()).await;
        let messages = consumer.expect("a consumer").messages().await.expect("messages").take(count as usize);
        let id = |headers: &async_nats::HeaderMap| headers.get("Nats-Msg-Id").map(|id| id.as_str().to_string());
        messages.map(|m| m.expect("a message").headers.as_ref().and_then(id).expect("an id")).collect().await
    })
}

#[test]
fn the_leader_of_three_servers_is_killed_and_no_event_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut servers) = Server::three(folder.path()) else { return };
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    assert!(init(&urls[0], &["--replicas", "3"]).status.success());
    let config = sensor("north", &urls, folder.path());
    let sink = start(&config);
    let mut next = load(&sink, 0, 20_000, Duration::from_secs(2));
    let leader = leader(&urls);
    let at = servers.iter().position(|server| server.name() == leader).expect("one of the three");
    servers[at].kill();
    next = load(&sink, next, 20_000, Duration::from_secs(5));
    let status = drained(&sink);
    assert_eq!((status.written, dropped(&status)), (next as u64, 0), "{status:?}");
    each_once(&numbers(&urls[(at + 1) % 3]), next);
}

/// Name of the server that leads the stream of events.
fn leader(urls: &[String]) -> String {
    let config = FleetConfig { servers: urls.to_vec(), ..FleetConfig::default() };
    runtime().expect("a runtime").block_on(async {
        let connection = Connection::open(&config, "test").await.expect("connected");
        let stream = async_nats::jetstream::new(connection.client).get_stream("SPIKED_EVENTS").await.expect("a stream");
        stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()).expect("a leader")
    })
}

#[test]
fn a_full_spool_drops_and_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    if super::servers::nats_server().is_none() {
        return;
    }
    let config = FleetConfig { spool_mib: 1, ..sensor("north", &["nats://127.0.0.1:1".into()], folder.path()) };
    let sink = SinkHandle::start("nats", &Target::Nats(Box::new(config)), 1024).expect("started");
    let next = load(&sink, 0, 10_000, Duration::from_secs(2));
    let status = wait_for("events are dropped", || Some(sink.status()).filter(|status| dropped(status) > 0));
    assert_eq!(status.dropped["disk_full"], dropped(&status), "{status:?}");
    let error = status.last_error.clone().expect("an error");
    assert!(error.contains("spool") && error.contains("127.0.0.1:1"), "{error}");
    assert_eq!(status.queued + dropped(&status), next as u64);
}

#[test]
#[ignore = "takes two minutes"]
fn a_server_stopped_for_a_minute_costs_no_frame_and_no_event() {
    const SPOOL_MIB: u64 = 512;
    let Some(net) = Net::new() else { return };
    // The server, the daemon and the commands then have the namespace's loopback interface.
    net.enter();
    let Some(server) = Server::alone(net.folder.path(), "") else { return };
    assert!(init(&server.url(), &[]).status.success());
    let spool = net.path("spool");
    fs::create_dir(&spool).expect("a folder");
    let settings = net.settings(
        &["b"],
        &format!(
            "[[sinks]]\ntype = \"nats\"\nevents = [\"detection\"]\n\
             [fleet]\nservers = [{:?}]\nsensor = \"north\"\nspool = {spool:?}\nspool_mib = {SPOOL_MIB}\n",
            server.url()
        ),
    );
    let mut daemon = Daemon::start(&net, &settings);
    // Each turn has other addresses, so that its streams are new ones.
    let replay = ["--loop", "1000000", "--unique-ip", "--preload-pcap", "--pps", "20000", "--duration", "65"];
    let (sent, largest) = thread::scope(|scope| {
        let sender = scope.spawn(|| net.replay("a", &common::fixture("captures/mixed.pcapng"), &replay));
        thread::sleep(Duration::from_secs(2));
        server.signal(libc::SIGSTOP);
        let begin = Instant::now();
        let mut largest = 0;
        while begin.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_secs(1));
            let files = fs::read_dir(&spool).expect("a folder").flatten();
            largest = largest.max(files.filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum::<u64>());
        }
        server.signal(libc::SIGCONT);
        (sender.join().expect("it ends"), largest)
    });
    let queued = |status: &serde_json::Value| status["sinks"][1]["queued"] == 0;
    let status = daemon.wait("the spool is empty", |s| counted(&s["interfaces"][0]).0 >= sent && queued(s));
    let (received, lost) = counted(&status["interfaces"][0]);
    assert_eq!(daemon.stop(), Some(0));
    let mut fleet = events(&server.url(), &[]);
    let mut file: Vec<String> = net.events("detection").iter().map(ToString::to_string).collect();
    println!(
        "{sent} frames sent, {received} received, {lost} dropped while the server was stopped for 60 s; at most {:.1} MiB in the spool; {} events",
        largest as f64 / f64::from(1 << 20),
        fleet.len()
    );
    assert_eq!((received, lost), (sent, 0));
    assert!(largest > 0 && largest < SPOOL_MIB << 20);
    assert!(file.len() > 10_000, "{}", file.len());
    fleet.sort();
    file.sort();
    assert!(fleet == file, "{} and {} events; {} {}", fleet.len(), file.len(), fleet[0], file[0]);
}
