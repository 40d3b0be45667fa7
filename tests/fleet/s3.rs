//! Tests of captures in S3 buckets, with a real S3 server: they are read as files are, and what fails is named.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStoreExt as _, PutPayload};

use super::archives::{archive, failed, jobs, sorted, text};
use super::common::{installed, skip, spiked, wait_until};
use super::servers::{Server, free_port, init};
use super::setup::make_certificates;

/// Where `.ci/run` installs the server.
const INSTALLED: &str = "target/tools/seaweedfs-4.48/bin/weed";
const KEY: &str = "reader";
const SECRET: &str = "secret-of-reader";
const BUCKET: &str = "captures";

/// Path of SeaweedFS' `weed`: from the environment, or where `.ci/run` installs it; reports a skip without it.
fn weed() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    let found = std::env::var_os(skip::S3_SERVER).map(PathBuf::from).or_else(|| installed.is_file().then_some(installed));
    if found.is_none() {
        skip(&format!("an S3 server ({}, or as .ci/run installs it)", skip::S3_SERVER));
    }
    found
}

/// An S3 server; killed when dropped.
struct S3 {
    child: Child,
    port: u16,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    fn start(folder: &Path) -> Option<Self> {
        Self::start_with(folder, &[])
    }

    /// A server with more options.
    fn start_with(folder: &Path, more: &[String]) -> Option<Self> {
        let program = weed()?;
        let (home, settings) = (folder.join("s3"), folder.join("s3.json"));
        fs::create_dir_all(&home).expect("a folder");
        let text = format!(
            r#"{{"identities": [{{"name": "spiked", "credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}],
                "actions": ["Admin", "Read", "Write", "List"]}}]}}"#
        );
        fs::write(&settings, text).expect("written");
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64", "-s3"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]).arg(format!("-s3.port={port}"));
        for name in [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port.grpc",
        ] {
            command.arg(format!("-{name}={}", free_port()));
        }
        command.arg(format!("-dir={}", home.display())).arg(format!("-s3.config={}", settings.display())).args(more);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the S3 server starts");
        let server = Self { child, port };
        // The bucket is created with its first object.
        wait_until("the S3 server accepts objects", || server.try_put("begin", b"-".to_vec()).is_ok());
        Some(server)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> AmazonS3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = AmazonS3Builder::new().with_endpoint(self.url()).with_allow_http(true).with_bucket_name(BUCKET);
        builder.with_access_key_id(KEY).with_secret_access_key(SECRET).with_region("us-east-1").build().expect("a client")
    }

    fn try_put(&self, key: &str, bytes: Vec<u8>) -> object_store::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (client, key) = (self.client(), object_store::path::Path::parse(key).expect("a key"));
        runtime.block_on(async { client.put(&key, PutPayload::from(bytes)).await }).map(drop)
    }

    fn put(&self, key: &str, bytes: Vec<u8>) {
        self.try_put(key, bytes).expect("stored");
    }

    /// Stores the files of a folder below `prefix`.
    fn put_folder(&self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("a file").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            self.put(&format!("{prefix}/{name}"), fs::read(&path).expect("bytes"));
        }
    }

    /// Settings of a client.
    fn settings(&self) -> [(&'static str, String); 5] {
        self.settings_at(self.url())
    }

    fn settings_at(&self, url: String) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ALLOW_HTTP", "true".into()),
        ]
    }
}

type Settings = [(&'static str, String); 5];

/// Runs `spiked read` with settings.
fn read(settings: &Settings, arguments: &[&str]) -> Output {
    spiked().arg("read").args(arguments).envs(settings.iter().cloned()).output().expect("it runs")
}

fn compressed(bytes: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).expect("compressed");
    [("gz", gzip.finish().expect("compressed")), ("zst", zstd::encode_all(bytes, 3).expect("compressed"))]
}

#[test]
fn objects_are_read_as_files_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(s3) = S3::start(folder.path()) else { return };
    let archive = archive(folder.path(), 6, 20);
    for (ending, bytes) in compressed(&fs::read(archive.join("00001.pcap")).expect("bytes")) {
        fs::write(archive.join(format!("compressed.pcap.{ending}")), bytes).expect("written");
    }
    // A capture by its first bytes, and an object that is not a capture.
    fs::copy(archive.join("00002.pcap"), archive.join("without-ending")).expect("copied");
    fs::write(archive.join("notes.txt"), "notes").expect("written");
    s3.put_folder(&archive, "2026/a b");
    s3.put("2026-other/x.pcap", b"not below the folder".to_vec());
    let (disk, object) = (archive.to_str().expect("a path"), format!("s3://{BUCKET}/2026/a b"));
    let (settings, slash) = (s3.settings(), format!("{object}/"));
    let as_files = |output: &Output| text(&output.stdout).replace(&object, disk);
    for options in [&["--workers", "1"][..], &["--each-file", "--workers", "1"], &["--format", "jsonl", "--events", "streams"]] {
        let files = spiked().arg("read").args(options).arg(disk).output().expect("it runs");
        for folder in [&object, &slash] {
            let objects = read(&settings, &[options, &[folder.as_str()]].concat());
            assert_eq!(sorted(as_files(&objects).as_bytes()), sorted(&files.stdout), "{options:?}: {objects:?}");
            assert_eq!((objects.status.code(), files.status.code()), (Some(1), Some(1)), "{objects:?}");
            let lines = text(&objects.stderr).replace(&object, disk);
            assert_eq!(lines, text(&files.stderr));
            assert!(lines.contains("notes.txt: skipped: not a capture"), "{lines}");
        }
    }
    for name in ["00001.pcap", "compressed.pcap.gz", "compressed.pcap.zst", "without-ending"] {
        let files = spiked().arg("read").arg(archive.join(name)).output().expect("it runs");
        let one = read(&settings, &[&format!("{object}/{name}")]);
        assert_eq!(as_files(&one), text(&files.stdout), "{name}: {one:?}");
        assert_eq!(one.status.code(), Some(0), "{name}: {one:?}");
        assert!(one.stdout.len() > 100, "{one:?}");
    }
}

#[test]
fn a_certificate_of_a_known_authority_is_accepted_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    if weed().is_none() || !installed("openssl", "openssl") {
        return;
    }
    make_certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port();
    let tls = [("port.https", port.to_string()), ("cert.file", path("server.pem")), ("key.file", path("server.key"))];
    let tls = tls.map(|(name, value)| format!("-s3.{name}={value}"));
    let Some(s3) = S3::start_with(folder.path(), &tls) else { return };
    let archive = archive(folder.path(), 1, 1);
    s3.put_folder(&archive, "one");
    let object = format!("s3://{BUCKET}/one/00000.pcap");
    let read = |authority: &str| {
        let mut settings = s3.settings_at(format!("https://127.0.0.1:{port}"));
        settings[4].1 = "false".into();
        let mut command = spiked();
        command.env("SSL_CERT_FILE", path(authority)).args(["read", &object]).envs(settings).output().expect("it runs")
    };
    let good = read("good.pem");
    let files = spiked().arg("read").arg(archive.join("00000.pcap")).output().expect("it runs");
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), text(&files.stdout)), "{good:?}");
    let other = read("other.pem");
    assert_eq!(other.status.code(), Some(4), "{other:?}");
    assert!(text(&other.stderr).contains("ertificate"), "{other:?}");
}

#[test]
fn what_fails_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(s3) = S3::start(folder.path()) else { return };
    let archive = archive(folder.path(), 1, 1);
    s3.put_folder(&archive, "one");
    let object = format!("s3://{BUCKET}/one/00000.pcap");
    let with = |name: &str, value: &str| s3.settings().map(|(n, v)| if n == name { (n, value.to_string()) } else { (n, v) });
    let (good, nobody) = (s3.settings(), format!("http://127.0.0.1:{}", free_port()));
    for (settings, object, code, named) in [
        (&good, format!("s3://{BUCKET}/one/1.pcap"), 4, "one/1.pcap: can't open the capture: there is no such object"),
        (&good, format!("s3://{BUCKET}/none/"), 3, "the folder holds no capture"),
        (&good, "s3://absent/1.pcap".into(), 4, "there is no bucket 'absent'; check the name"),
        (&good, "s3://".into(), 4, "has no bucket; give s3://BUCKET/KEY"),
        (&with("AWS_SECRET_ACCESS_KEY", "wrong"), object.clone(), 5, "access denied"),
        (&with("AWS_SECRET_ACCESS_KEY", "wrong"), format!("s3://{BUCKET}/one/"), 5, "access denied"),
        (&good, "s3://absent/folder/".into(), 4, "there is no bucket 'absent'"),
        (&with("AWS_ACCESS_KEY_ID", "nobody"), object.clone(), 5, "access denied"),
        (&with("AWS_ALLOW_HTTP", ""), object.clone(), 4, "set AWS_ALLOW_HTTP=true"),
        (&with("AWS_ENDPOINT_URL", &nobody), object.clone(), 4, "Connection refused"),
    ] {
        let output = read(settings, &[&object]);
        let error = text(&output.stderr);
        assert!(error.contains(named) && error.contains("s3://"), "{object}: {named}: {output:?}");
        assert_eq!(output.status.code(), Some(code), "{object}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    // One of several that can't be read.
    let some = read(&good, &[&object, &format!("s3://{BUCKET}/one/1.pcap")]);
    assert_eq!(some.status.code(), Some(1), "{some:?}");
}

/// Passes connections on to a server and cuts each after some bytes of answers; the first `connections` only, later ones are closed at
/// once. Returns its URL, and the number of connections that it has cut.
fn cutting_proxy(port: u16, bytes: u64, connections: u64) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let cut = Arc::new(AtomicU64::new(0));
    let cuts = Arc::clone(&cut);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            if cuts.load(Relaxed) >= connections {
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", port)).expect("the server");
            let (mut requests, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            thread::spawn(move || std::io::copy(&mut requests, &mut to));
            let cuts = Arc::clone(&cuts);
            thread::spawn(move || {
                let mut client = client;
                let passed = std::io::copy(&mut (&server).take(bytes), &mut client).unwrap_or(0);
                cuts.fetch_add(u64::from(passed == bytes), Relaxed);
                let _ = (server.shutdown(std::net::Shutdown::Both), client.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (url, cut)
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_broke() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(s3) = S3::start(folder.path()) else { return };
    let path = archive(folder.path(), 2, 255).join("00001.pcap");
    let bytes = fs::read(&path).expect("bytes");
    let size = bytes.len() as u64;
    s3.put("long.pcap", bytes);
    let object = format!("s3://{BUCKET}/long.pcap");
    let files = spiked().args(["read", "--workers", "1"]).arg(&path).output().expect("it runs");
    let read = |url: String| read(&s3.settings_at(url), &["--workers", "1", &object]);

    let (url, cut) = cutting_proxy(s3.port, size / 12, u64::MAX);
    let resumed = read(url);
    assert_eq!((text(&resumed.stdout), resumed.status.code()), (text(&files.stdout), Some(0)), "{resumed:?}");
    // More often than one request is tried again.
    assert!(cut.load(Relaxed) >= 10, "{cut:?} connections were cut");

    let (url, _) = cutting_proxy(s3.port, size / 2, 1);
    let partly = read(url);
    let table = text(&partly.stdout);
    assert_eq!(partly.status.code(), Some(1), "{partly:?}");
    assert!(table.contains("truncated after packet") && table.contains("bytes are missing"), "{table}");
    assert!(!table.contains("truncated after packet 0:"), "{table}");
}

#[test]
fn workers_read_an_archive_of_objects() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(s3) = S3::start(folder.path()) else { return };
    let Some(server) = Server::alone(folder.path(), "") else { return };
    let (url, settings) = (server.url(), s3.settings());
    assert!(init(&url, &[]).status.success());
    let archive = archive(folder.path(), 40, 5);
    fs::write(archive.join("bad.pcap"), "not a capture at all").expect("written");
    s3.put_folder(&archive, "archive");
    let object = format!("s3://{BUCKET}/archive");
    let run = |command: &[&str]| {
        let (command, arguments) = command.split_first().expect("a command");
        let mut program = spiked();
        program.args(["fleet", command, "--server", &url, "--name", "operator"]).args(arguments);
        program.envs(settings.iter().cloned()).output().expect("it runs")
    };
    let enqueue = || text(&run(&["enqueue", &object]).stdout);
    assert!(enqueue().contains("41 captures queued"));
    assert!(enqueue().contains("41 wait or are in work already"));
    // An object with other content of the same size.
    let mut changed = fs::read(archive.join("00007.pcap")).expect("bytes");
    changed.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
    fs::write(archive.join("00007.pcap"), &changed).expect("written");
    s3.put("archive/00007.pcap", changed);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| run(&["work", "--until-empty"]))).collect();
        workers
            .into_iter()
            .for_each(|worker| assert!(worker.join().expect("a worker").status.code().is_some_and(|code| code < 2)));
    });
    let reasons = failed(&jobs(&url, "operator"));
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("archive/00007.pcap: has changed since it was queued"), "{reasons:?}");
    assert!(reasons[1].contains("archive/bad.pcap: begins with"), "{reasons:?}");
    assert!(enqueue().contains("1 captures queued"));
    assert_eq!(run(&["work", "--until-empty"]).status.code(), Some(0));

    let one = |more: &[&str]| read(&settings, &[&["--each-file", "--quiet"], more, &[object.as_str()]].concat());
    let results = run(&["results"]);
    assert_eq!((text(&results.stdout), results.status.code()), (text(&one(&[]).stdout), Some(1)), "{results:?}");
    let (events, expected) = (run(&["results", "--events"]), one(&["--format", "jsonl"]));
    assert!(expected.stdout.len() > 4000, "few events");
    assert_eq!(sorted(&events.stdout), sorted(&expected.stdout));
}

#[test]
fn a_worker_without_the_server_of_objects_tries_again_and_then_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(s3) = S3::start(folder.path()) else { return };
    let Some(server) = Server::alone(folder.path(), "") else { return };
    assert!(init(&server.url(), &[]).status.success());
    s3.put_folder(&archive(folder.path(), 1, 1), "archive");
    let object = format!("s3://{BUCKET}/archive");
    let with = |command: &[&str], secret: &str| {
        let mut program = spiked();
        program.arg("fleet").args(command).args(["--server", &server.url(), "--name", "operator"]);
        program.envs(s3.settings()).env("AWS_SECRET_ACCESS_KEY", secret).output().expect("it runs")
    };
    assert_eq!(with(&["enqueue", &object], "wrong").status.code(), Some(5));
    assert!(with(&["enqueue", &object], SECRET).status.success());
    assert_eq!(with(&["work", "--until-empty"], "wrong").status.code(), Some(1));
    let reasons = failed(&jobs(&server.url(), "operator"));
    assert!(reasons.len() == 1 && reasons[0].contains("access denied"), "{reasons:?}");
}
