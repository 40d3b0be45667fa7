//! `spiked fleet`: prepares NATS servers for many sensors, and reads what the sensors publish.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use crate::config::{FleetConfig, is_token};
use crate::fleet::connection::{Connection, runtime};
use crate::fleet::setup::{self, Change, Identity, Role};
use crate::fleet::tail::{self, Selection};

use super::Exit;
use super::exit::OutputError;

/// Many sensors that share NATS servers: prepares the servers, reads the events of all
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Subcommand)]
enum FleetCommand {
    Init(InitArgs),
    ServerConfig(ServerConfigArgs),
    Tail(TailArgs),
}

/// Which servers, and as whom.
#[derive(ClapArgs)]
struct ServerArgs {
    /// URL of a server, nats://HOST:PORT or tls://HOST:PORT; may be repeated
    #[arg(long = "server", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    servers: Vec<String>,
    /// Name of this client: replies to it go to _INBOX.NAME, which the servers' permissions must allow
    #[arg(long, value_name = "NAME", default_value = "operator")]
    name: String,
    /// Credentials file, as nsc writes it
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// PEM file of the authority that signed the servers' certificates
    #[arg(long, value_name = "FILE")]
    ca_certificate: Option<PathBuf>,
    /// PEM file of this client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl ServerArgs {
    async fn connect(&self) -> Result<Connection> {
        let config = FleetConfig {
            servers: self.servers.clone(),
            sensor: self.name.clone(),
            credentials: self.credentials.clone(),
            ca_certificate: self.ca_certificate.clone(),
            client_certificate: self.certificate.clone().zip(self.key.clone()),
            ..FleetConfig::default()
        };
        Ok(Connection::open(&config, &self.name).await?)
    }
}

/// Makes the stream of events; if there is one, lists what differs
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet init --server tls://nats.example.org:4222 --replicas 3\n\n\
    Exit code 1 if something differs and --update is not given.")]
struct InitArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Copies of the stream, on as many servers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// Size of the stream of events at which the oldest are removed, in MiB
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    events_mib: u32,
    /// Change what differs
    #[arg(long)]
    update: bool,
}

/// Writes settings of nats-server that permit each client the subjects of its role and no others
#[derive(ClapArgs)]
#[command(
    name = "server-config",
    after_help = "Example:\n  spiked fleet server-config --sensor north --sensor south --reader soc --out nats-server.conf\n\n\
    Without --tls, clients have passwords, which the file holds: nats://NAME:PASSWORD@HOST:PORT. With it, the name is the DNS name\n\
    in the client's certificate."
)]
struct ServerConfigArgs {
    /// Name of a sensor, as fleet.sensor; may be repeated
    #[arg(long = "sensor", value_name = "NAME")]
    sensors: Vec<String>,
    /// Name of a client that reads events; may be repeated
    #[arg(long = "reader", value_name = "NAME")]
    readers: Vec<String>,
    /// Name of a client that may do everything, for `spiked fleet init`
    #[arg(long, value_name = "NAME", default_value = "operator")]
    admin: String,
    /// PEM files on the server: its certificate, its key, and the authority that signed the clients' certificates
    #[arg(long, num_args = 3, value_names = ["CERTIFICATE", "KEY", "CA"])]
    tls: Option<Vec<String>>,
    /// File to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Prints the events of all sensors as JSON lines, each once
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet tail --server tls://nats.example.org:4222 --type alert")]
struct TailArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Events of this sensor only
    #[arg(long, value_name = "NAME")]
    sensor: Option<String>,
    /// Events of this type only
    #[arg(long = "type", value_name = "TYPE", value_parser = ["detection", "alert", "stream", "episode"])]
    event: Option<String>,
    /// Begin with the oldest event that the servers have
    #[arg(long)]
    all: bool,
    /// Print the events that the servers have and end
    #[arg(long, conflicts_with = "all")]
    once: bool,
}

pub fn run(args: &Args) -> Result<Exit> {
    match &args.command {
        FleetCommand::Init(args) => runtime()?.block_on(init(args)),
        FleetCommand::ServerConfig(args) => server_config(args),
        FleetCommand::Tail(args) => runtime()?.block_on(tail(args)),
    }
}

async fn init(args: &InitArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let wanted = setup::event_stream(args.replicas.into(), i64::from(args.events_mib) << 20);
    let name = &wanted.name;
    match setup::ensure(&connection, &wanted, args.update).await.with_context(|| name.clone())? {
        Change::Created => say!("{name}: created"),
        Change::Unchanged => say!("{name}: ok"),
        Change::Updated(lines) => lines.iter().for_each(|line| say!("{name}: updated: {line}")),
        Change::Different(lines) => {
            lines.iter().for_each(|line| say!("{name}: {line}; change it with --update"));
            return Ok(Exit::Partly);
        }
    }
    Ok(Exit::Ok)
}

fn server_config(args: &ServerConfigArgs) -> Result<Exit> {
    let mut clients = vec![(Role::Admin, args.admin.clone())];
    for (role, names) in [(Role::Sensor, &args.sensors), (Role::Reader, &args.readers)] {
        clients.extend(names.iter().map(|name| (role, name.clone())));
    }
    for (index, (_, name)) in clients.iter().enumerate() {
        if !is_token(name) {
            bail!("'{name}' is not a valid name; give up to 64 letters, digits, - and _");
        }
        if clients[..index].iter().any(|(_, other)| other == name) {
            bail!("two clients have the name '{name}'; rename one of them");
        }
    }
    let identity = match args.tls.as_deref() {
        Some([certificate, key, ca_certificate]) => {
            Identity::Certificates { certificate: certificate.clone(), key: key.clone(), ca_certificate: ca_certificate.clone() }
        }
        _ => Identity::Passwords(clients.iter().map(|_| password()).collect::<io::Result<_>>()?),
    };
    let failed = || OutputError::to(&args.out, "the settings of nats-server");
    write_private(&args.out, &setup::server_settings(&clients, &identity)).with_context(failed)?;
    say!("{}: {} clients", args.out.display(), clients.len());
    Ok(Exit::Ok)
}

/// Writes a new file that only its owner can read, since it holds passwords.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// 128 random bits in hexadecimal digits.
fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn tail(args: &TailArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let selection = Selection {
        sensor: args.sensor.clone(),
        event: args.event.clone(),
        from_start: args.all || args.once,
        until_now: args.once,
    };
    let mut failed = None;
    let mut output = io::stdout().lock();
    let print = |text: &[u8]| {
        let written = output.write_all(text).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush());
        failed = written.err();
        failed.is_none()
    };
    tail::tail(&connection, &selection, print).await?;
    failed.map_or(Ok(Exit::Ok), |error| Err(error.into()))
}
